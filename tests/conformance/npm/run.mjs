// The npm clients against a running gateway: node run.mjs GATEWAY_URL UPSTREAM_REPORT_URL
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodFunction } from "openai/helpers/zod";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, reportURL] = process.argv.slice(2);
const TEXT = "Paris is lovely in März 🎈";
const PIXEL = "data:image/png;base64,iVBORw0KGgo=";
const Weather = z.object({ city: z.string(), days: z.number().int() });
const WEATHER = { city: "Paris", days: 3 };
const ask = [{ role: "user", content: "Where?" }];

const openai = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });
const provider = createOpenAICompatible({
  name: "gateway",
  baseURL,
  apiKey: "any",
  includeUsage: true,
  supportsStructuredOutputs: true,
});

// What the upstream got last, and how often the gateway hung up on it.
const upstream = async () => (await fetch(reportURL)).json();

async function hungUpWithin(ms, before) {
  const deadline = Date.now() + ms;
  while ((await upstream()).hang_ups <= before) {
    assert.ok(Date.now() < deadline, "the upstream call went on after the client left");
    await new Promise((resume) => setTimeout(resume, 20));
  }
}

const functionTool = (name) => ({
  type: "function",
  function: {
    name,
    parameters: {
      type: "object",
      properties: { city: { type: "string" }, days: { type: "integer" } },
      required: ["city", "days"],
    },
  },
});

const weatherTool = (seen, name) =>
  tool({
    description: "Tell the weather.",
    inputSchema: Weather,
    execute: async (input) => {
      seen.push([name, input]);
      return "sunny";
    },
  });

const cases = {
  "openai: chat": async () => {
    const answer = await openai.chat.completions.create({ model: "chat-model", messages: ask });
    assert.equal(answer.choices[0].message.content, TEXT);
    assert.equal(answer.usage.total_tokens, 30);
    assert.ok(answer._request_id);
  },
  "openai: stream": async () => {
    const stream = await openai.chat.completions.create({
      model: "chat-model",
      messages: ask,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), TEXT);
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.total_tokens, 30);
    assert.equal(new Set(chunks.map((c) => `${c.id} ${c.created} ${c.model}`)).size, 1);
  },
  "openai: stream helper": async () => {
    const final = await openai.chat.completions.stream({ model: "chat-model", messages: ask }).finalChatCompletion();
    assert.equal(final.choices[0].message.content, TEXT);
  },
  "openai: tools run to the end": async () => {
    const seen = [];
    const runner = openai.chat.completions.runTools({
      model: "chat-model",
      messages: ask,
      tools: [zodFunction({ name: "weather", parameters: Weather, function: (input) => (seen.push(input), "sunny") })],
    });
    assert.equal(await runner.finalContent(), TEXT);
    assert.deepEqual(seen, [WEATHER]);
  },
  "openai: parallel tools in a stream": async () => {
    const final = await openai.chat.completions
      .stream({ model: "parallel-model", messages: ask, tools: ["a", "b", "c"].map(functionTool) })
      .finalChatCompletion();
    const calls = final.choices[0].message.tool_calls;
    assert.deepEqual(calls.map((c) => [c.id, c.function.name]), [["call_0", "a"], ["call_1", "b"], ["call_2", "c"]]);
    for (const call of calls) assert.deepEqual(JSON.parse(call.function.arguments), WEATHER);
  },
  "openai: structured output": async () => {
    const response_format = zodResponseFormat(Weather, "weather");
    const answer = await openai.chat.completions.parse({ model: "chat-model", messages: ask, response_format });
    assert.deepEqual(answer.choices[0].message.parsed, WEATHER);
    assert.equal((await upstream()).request.response_format.json_schema.strict, true);
  },
  "openai: refusal": async () => {
    const answer = await openai.chat.completions.create({ model: "refusing-model", messages: ask });
    assert.equal(answer.choices[0].message.refusal, "I cannot help with that.");
  },
  "openai: images": async () => {
    const content = [{ type: "text", text: "What?" }, { type: "image_url", image_url: { url: PIXEL, detail: "low" } }];
    await openai.chat.completions.create({ model: "chat-model", messages: [{ role: "user", content }] });
    assert.deepEqual((await upstream()).request.messages, [{ role: "user", content }]);
  },
  "openai: retry": async () => {
    const before = (await upstream()).requests;
    const answer = await openai.chat.completions.create({ model: "flaky-500", messages: ask }, { maxRetries: 1 });
    assert.equal(answer.choices[0].message.content, TEXT);
    assert.equal((await upstream()).requests, before + 2);
  },
  "openai: a cut stream is an error": async () => {
    const stream = await openai.chat.completions.create({ model: "cut-model", messages: ask, stream: true });
    await assert.rejects(async () => {
      for await (const _ of stream);
    }, OpenAI.APIError);
  },
  "openai: abort": async () => {
    const before = (await upstream()).hang_ups;
    const stream = await openai.chat.completions.create({ model: "slow-model", messages: ask, stream: true });
    for await (const _ of stream) break;
    stream.controller.abort();
    await hungUpWithin(1000, before);
  },
  "openai: models": async () => {
    const names = [];
    for await (const model of openai.models.list()) names.push(model.id);
    assert.ok(names.includes("support"));
    await assert.rejects(openai.models.retrieve("nobody"), OpenAI.NotFoundError);
  },
  "ai: chat": async () => {
    const answer = await generateText({ model: provider("chat-model"), prompt: "Where?", maxRetries: 0 });
    assert.equal(answer.text, TEXT);
    assert.equal(answer.usage.totalTokens, 30);
    assert.equal(answer.finishReason, "stop");
  },
  "ai: stream": async () => {
    const result = streamText({ model: provider("chat-model"), prompt: "Where?", maxRetries: 0 });
    const pieces = [];
    for await (const piece of result.textStream) pieces.push(piece);
    assert.equal(pieces.join(""), TEXT);
    assert.ok(pieces.length > 2);
    assert.equal((await result.usage).totalTokens, 30);
    assert.equal(await result.finishReason, "stop");
  },
  "ai: tools run to the end": async () => {
    const seen = [];
    const answer = await generateText({
      model: provider("chat-model"),
      prompt: "Where?",
      tools: { weather: weatherTool(seen, "weather") },
      stopWhen: stepCountIs(3),
    });
    assert.equal(answer.text, TEXT);
    assert.deepEqual(seen, [["weather", WEATHER]]);
  },
  "ai: parallel tools in a stream": async () => {
    const seen = [];
    const result = streamText({
      model: provider("parallel-model"),
      prompt: "Where?",
      tools: { a: weatherTool(seen, "a"), b: weatherTool(seen, "b") },
      stopWhen: stepCountIs(3),
    });
    assert.equal(await result.text, TEXT);
    assert.deepEqual(seen.sort(), [["a", WEATHER], ["b", WEATHER]]);
  },
  "ai: structured output": async () => {
    const answer = await generateText({
      model: provider("chat-model"),
      prompt: "Where?",
      output: Output.object({ schema: Weather }),
    });
    assert.deepEqual(answer.output, WEATHER);
    assert.equal((await upstream()).request.response_format.type, "json_schema");
  },
  "ai: images": async () => {
    const content = [{ type: "text", text: "What?" }, { type: "image", image: PIXEL }];
    await generateText({ model: provider("chat-model"), messages: [{ role: "user", content }] });
    assert.equal((await upstream()).request.messages[0].content[1].image_url.url, PIXEL);
  },
  "ai: retry": async () => {
    const answer = await generateText({ model: provider("flaky-503"), prompt: "Where?", maxRetries: 1 });
    assert.equal(answer.text, TEXT);
  },
  "ai: a cut stream is an error": async () => {
    const errors = [];
    const result = streamText({ model: provider("cut-model"), prompt: "?", maxRetries: 0, onError: (e) => errors.push(e) });
    let finish = null;
    for await (const part of result.fullStream) if (part.type === "finish") finish = part.finishReason;
    assert.equal(errors.length, 1);
    assert.notEqual(finish, "stop");
  },
  "ai: abort": async () => {
    const before = (await upstream()).hang_ups;
    const controller = new AbortController();
    const result = streamText({ model: provider("slow-model"), prompt: "?", abortSignal: controller.signal });
    try {
      for await (const _ of result.textStream) controller.abort();
    } catch (error) {
      assert.equal(error.name, "AbortError");
    }
    await hungUpWithin(1000, before);
  },
};

const STATUS = [
  ["status-400", 400, OpenAI.BadRequestError, "context_length_exceeded"],
  ["status-401", 401, OpenAI.AuthenticationError, "invalid_api_key"],
  ["nobody", 404, OpenAI.NotFoundError, "model_not_found"],
  ["status-429", 429, OpenAI.RateLimitError, null],
  ["status-500", 502, OpenAI.InternalServerError, null],
  ["status-503", 503, OpenAI.InternalServerError, null],
];
for (const [model, status, kind, code] of STATUS) {
  cases[`openai: error ${model}`] = () =>
    assert.rejects(openai.chat.completions.create({ model, messages: ask }), (error) => {
      assert.ok(error instanceof kind, error.constructor.name);
      assert.equal(error.status, status);
      assert.ok(error.requestID);
      if (code) assert.equal(error.code, code);
      if (status === 429) assert.equal(error.headers.get("retry-after"), "7");
      return true;
    });
  cases[`ai: error ${model}`] = () =>
    assert.rejects(generateText({ model: provider(model), prompt: "?", maxRetries: 0 }), (error) => {
      assert.ok(APICallError.isInstance(error), error.name);
      assert.equal(error.statusCode, status);
      return true;
    });
}

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  try {
    await run();
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.stack ?? error}`);
  }
}
console.log(`${Object.keys(cases).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
