"""The output formats of a study: which ones it tries, and what a prompt looks like in each of them."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from rs_gateway.domain.output_formats import OutputFormat, admits, parse, sentence, write
from rs_gateway.domain.placeholders import escape_text
from rs_gateway.domain.prompts import Demo, PromptText
from rs_pipelines.sample import Example


def offered_formats(
    live: PromptText, train: Sequence[Example], *, wanted: Collection[OutputFormat]
) -> tuple[OutputFormat, ...]:
    """The live version's own format first, then the wanted ones that can hold every expected answer and every demo.

    A live version that describes its format in words of its own keeps it: ours beside them would contradict.
    """
    base = without_format(live)
    if live.output is not OutputFormat.BARE and base.instruction == live.instruction:
        return (live.output,)
    answers = {example.expected.strip() for example in train} | {demo.assistant.strip() for demo in base.demos}
    others = [output for output in OutputFormat if output in wanted and output is not live.output]
    return (live.output, *(output for output in others if all(admits(output, answer) for answer in answers)))


def in_format(text: PromptText, output: OutputFormat) -> PromptText:
    """A bare prompt with the format's sentence after its instruction, and with its demos written in the format."""
    if output is OutputFormat.BARE:
        return text
    said = escape_text(sentence(output))
    instruction = f"{text.instruction}\n{said}" if text.instruction else said
    demos = tuple(_written(demo, output) for demo in text.demos)
    return replace(text, instruction=instruction, demos=demos, output=output)


def without_format(text: PromptText) -> PromptText:
    """The bare prompt behind a version: without the format's sentence, if it has ours, and with bare demos."""
    said = escape_text(sentence(text.output))
    instruction = text.instruction
    if said and (instruction == said or instruction.endswith(f"\n{said}")):
        instruction = instruction[: -len(said)].removesuffix("\n")
    demos = tuple(_bare(demo, text.output) for demo in text.demos)
    return replace(text, instruction=instruction, demos=demos, output=OutputFormat.BARE)


def _written(demo: Demo, output: OutputFormat) -> Demo:
    return replace(demo, assistant=write(output, demo.assistant.strip()))


def _bare(demo: Demo, output: OutputFormat) -> Demo:
    answer = parse(output, demo.assistant)
    return demo if answer is None else replace(demo, assistant=answer)
