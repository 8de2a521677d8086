/* An upstream that answers at once, so that what is measured is the gateway in front of it.
 *
 *   mock_upstream PORT [PAUSE_MS]
 *
 * POST any path with a JSON body. One thread, epoll, keep-alive; bodies with Content-Length or chunked.
 *   "stream":true           20 chunks of server-sent events, each its own write and its own chunk of the transfer coding,
 *                           then a usage chunk if "include_usage":true, then [DONE]
 *   otherwise               a completion of 600 bytes
 *   "user":"bench-refused"  400 with an error in OpenAI's shape
 *   "user":"bench-slow"     a stream that pauses 10 ms between its chunks (PAUSE_MS does so for every stream)
 * GET any path answers 200 "ok".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { N_CHUNKS = 20, MAX_EVENTS = 256, COMPLETION_BYTES = 600, SLOW_PAUSE_MS = 10, INPUT_LIMIT = 1 << 24 };

typedef struct { char *data; size_t length; } Bytes;

typedef struct Connection {
    int fd;
    char *in; size_t in_length, in_size;    /* what came and is not yet understood */
    char *out; size_t out_length, out_size; /* what the socket did not take yet */
    int next_chunk;                         /* of the running stream; -1 when there is none */
    int wants_usage, close_after, dead;
    struct Connection *next_slow, *next_dead;
    int is_slow;
} Connection;

static Bytes completion, refusal, ok_answer, stream_head, stream_chunks[N_CHUNKS], usage_chunk, stream_end;
static int epoll_fd, pause_ms;
static Connection *slow_connections, *dead_connections;

static void *must(void *pointer) {
    if (pointer == NULL) { fputs("mock_upstream: out of memory\n", stderr); exit(1); }
    return pointer;
}

static Bytes text(const char *value) {
    return (Bytes){must(strdup(value)), strlen(value)};
}

static Bytes with_head(const char *status, const char *body) {
    Bytes bytes;
    bytes.length = (size_t)asprintf(&bytes.data,
        "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", status, strlen(body), body);
    return bytes;
}

static Bytes event(const char *json) {
    Bytes bytes;
    bytes.length = (size_t)asprintf(&bytes.data, "%zx\r\ndata: %s\n\n\r\n", strlen(json) + 8, json);
    return bytes;
}

static void prepare_answers(void) {
    static const char *words[] = {"The ", "refund ", "for ", "your ", "order ", "is ", "on ", "its ", "way ", "and "};
    char body[2 * COMPLETION_BYTES], filler[COMPLETION_BYTES], json[512];
    const char *form = "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench-model\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"bench-answer %s\"},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":120,\"completion_tokens\":80,\"total_tokens\":200}}";
    size_t missing = COMPLETION_BYTES - (strlen(form) - 2);
    for (size_t i = 0; i < missing; i++) filler[i] = i % 6 == 5 ? ' ' : (char)('a' + i % 6);
    filler[missing] = 0;
    snprintf(body, sizeof body, form, filler);
    completion = with_head("200 OK", body);
    refusal = with_head("400 Bad Request", "{\"error\":{\"message\":\"refused on request\",\"type\":\"invalid_request_error\","
        "\"param\":\"user\",\"code\":\"bench_refused\"}}");
    ok_answer = with_head("200 OK", "{\"status\":\"ok\"}");
    stream_head = text("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    for (int i = 0; i < N_CHUNKS; i++) {
        char delta[96];
        if (i == 0) snprintf(delta, sizeof delta, "{\"role\":\"assistant\",\"content\":\"bench-answer \"}");
        else if (i == N_CHUNKS - 1) snprintf(delta, sizeof delta, "{}");
        else snprintf(delta, sizeof delta, "{\"content\":\"%s\"}", words[i % 10]);
        snprintf(json, sizeof json, "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
            "\"model\":\"bench-model\",\"choices\":[{\"index\":0,\"delta\":%s,\"logprobs\":null,\"finish_reason\":%s}]}",
            delta, i == N_CHUNKS - 1 ? "\"stop\"" : "null");
        stream_chunks[i] = event(json);
    }
    usage_chunk = event("{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"bench-model\",\"choices\":[],\"usage\":{\"prompt_tokens\":120,\"completion_tokens\":19,\"total_tokens\":139}}");
    stream_end = event("[DONE]");
}

static void watch(Connection *c, int operation) {
    struct epoll_event e = {.events = EPOLLIN | (c->out_length ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &e);
}

static void bury(Connection *c) { /* freed after the round of events, which may name it again */
    if (c->dead) return;
    c->dead = 1;
    for (Connection **p = &slow_connections; *p; p = &(*p)->next_slow)
        if (*p == c) { *p = c->next_slow; break; }
    close(c->fd);
    c->next_dead = dead_connections;
    dead_connections = c;
}

static void append(char **data, size_t *length, size_t *size, const char *more, size_t n) {
    if (*length + n > *size) {
        *size = (*length + n) * 2;
        *data = must(realloc(*data, *size));
    }
    memcpy(*data + *length, more, n);
    *length += n;
}

static void put(Connection *c, Bytes bytes) {
    size_t sent = 0;
    if (c->dead) return;
    if (c->out_length == 0) {
        ssize_t n = send(c->fd, bytes.data, bytes.length, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) { bury(c); return; }
        sent = n < 0 ? 0 : (size_t)n;
        if (sent == bytes.length) return;
    }
    append(&c->out, &c->out_length, &c->out_size, bytes.data + sent, bytes.length - sent);
    watch(c, EPOLL_CTL_MOD);
}

static void finish_stream(Connection *c) {
    if (c->wants_usage) put(c, usage_chunk);
    put(c, stream_end);
    put(c, (Bytes){"0\r\n\r\n", 5});
    c->next_chunk = -1;
}

static void start_stream(Connection *c, int slow) {
    put(c, stream_head);
    c->next_chunk = 0;
    if (slow) {
        if (!c->dead) { c->is_slow = 1; c->next_slow = slow_connections; slow_connections = c; }
        return;
    }
    while (c->next_chunk < N_CHUNKS && !c->dead) put(c, stream_chunks[c->next_chunk++]);
    finish_stream(c);
}

/* Bytes of a whole chunked body at `from`, decoded in place into `*body`; 0: not all there; -1: not chunked coding. */
static long read_chunked(char *from, size_t available, size_t *body_length) {
    size_t at = 0, decoded = 0;
    for (;;) {
        char *line_end = memmem(from + at, available - at, "\r\n", 2);
        if (line_end == NULL) return 0;
        char *digits_end;
        size_t n = strtoul(from + at, &digits_end, 16);
        if (digits_end == from + at || n > INPUT_LIMIT) return -1;
        at = (size_t)(line_end - from) + 2;
        if (at + n + 2 > available) return 0;
        if (n == 0) { *body_length = decoded; return (long)(at + 2); }
        memmove(from + decoded, from + at, n);
        decoded += n;
        at += n + 2;
    }
}

static int has(const char *body, size_t length, const char *key, const char *value) {
    char compact[64], spaced[64];
    int n = snprintf(compact, sizeof compact, "\"%s\":%s", key, value);
    int m = snprintf(spaced, sizeof spaced, "\"%s\": %s", key, value);
    return memmem(body, length, compact, (size_t)n) != NULL || memmem(body, length, spaced, (size_t)m) != NULL;
}

static void answer(Connection *c, int is_post, const char *body, size_t length) {
    if (!is_post) put(c, ok_answer);
    else if (has(body, length, "user", "\"bench-refused\"")) put(c, refusal);
    else if (has(body, length, "stream", "true")) {
        c->wants_usage = has(body, length, "include_usage", "true");
        start_stream(c, pause_ms > 0 || has(body, length, "user", "\"bench-slow\""));
    } else put(c, completion);
}

/* The value of a header of this request, or NULL. Names are compared without regard to case. */
static const char *header(const char *head, const char *head_end, const char *name) {
    size_t n = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL && line < head_end; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, n) == 0 && line[2 + n] == ':') {
            const char *value = line + 3 + n;
            while (*value == ' ') value++;
            return value;
        }
    return NULL;
}

/* Answers what is whole in the input; a chunked body is decoded only when all of it is there. */
static void understand(Connection *c) {
    while (c->in_length > 0 && c->next_chunk < 0 && !c->dead) {
        append(&c->in, &c->in_length, &c->in_size, "", 1); /* a terminator for the string functions, not a byte of input */
        c->in_length--;
        char *head_end = strstr(c->in, "\r\n\r\n");
        if (head_end == NULL) return;
        size_t head_length = (size_t)(head_end - c->in) + 4, body_length = 0;
        char *body = c->in + head_length;
        size_t available = c->in_length - head_length, consumed;
        const char *length = header(c->in, head_end, "content-length");
        const char *coding = header(c->in, head_end, "transfer-encoding");
        const char *expect = header(c->in, head_end, "expect");
        const char *connection = header(c->in, head_end, "connection");
        if (connection != NULL && strncasecmp(connection, "close", 5) == 0) c->close_after = 1;
        if (expect != NULL && available == 0) { put(c, (Bytes){"HTTP/1.1 100 Continue\r\n\r\n", 25}); return; }
        int is_post = strncmp(c->in, "POST ", 5) == 0;
        if (coding != NULL && strncasecmp(coding, "chunked", 7) == 0) {
            if (available < 5 || memmem(body, available, "0\r\n\r\n", 5) == NULL) return;
            long n = read_chunked(body, available, &body_length);
            if (n == 0) return;
            if (n < 0) { bury(c); return; }
            consumed = (size_t)n;
        } else {
            body_length = length == NULL ? 0 : strtoul(length, NULL, 10);
            if (available < body_length) return;
            consumed = body_length;
        }
        answer(c, is_post, body, body_length);
        if (c->dead) return;
        c->in_length -= head_length + consumed;
        memmove(c->in, body + consumed, c->in_length);
        if (c->close_after && c->out_length == 0 && c->next_chunk < 0) bury(c);
    }
}

static void receive(Connection *c) {
    char buffer[65536];
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) { bury(c); return; }
        if (n < 0) break;
        append(&c->in, &c->in_length, &c->in_size, buffer, (size_t)n);
        if (c->in_length > INPUT_LIMIT) { bury(c); return; }
        if ((size_t)n < sizeof buffer) break;
    }
    understand(c);
}

static void flush(Connection *c) {
    ssize_t n = send(c->fd, c->out, c->out_length, MSG_NOSIGNAL);
    if (n < 0) { if (errno != EAGAIN) bury(c); return; }
    c->out_length -= (size_t)n;
    memmove(c->out, c->out + n, c->out_length);
    if (c->out_length > 0) return;
    watch(c, EPOLL_CTL_MOD);
    if (c->close_after && c->next_chunk < 0) bury(c);
}

static void step_slow_streams(void) {
    Connection *c = slow_connections;
    slow_connections = NULL;
    while (c != NULL) {
        Connection *next = c->next_slow;
        c->is_slow = 0;
        put(c, stream_chunks[c->next_chunk]);
        if (!c->dead) {
            if (++c->next_chunk < N_CHUNKS) { c->is_slow = 1; c->next_slow = slow_connections; slow_connections = c; }
            else { finish_stream(c); understand(c); }
        }
        c = next;
    }
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Connection *c = must(calloc(1, sizeof *c));
        c->fd = fd;
        c->next_chunk = -1;
        watch(c, EPOLL_CTL_ADD);
    }
}

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int argc, char **argv) {
    if (argc < 2) { fputs("usage: mock_upstream PORT [PAUSE_MS]\n", stderr); return 2; }
    pause_ms = argc > 2 ? atoi(argv[2]) : 0;
    prepare_answers();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4096) != 0) {
        perror("mock_upstream"); return 1;
    }
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[MAX_EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    int step_ms = pause_ms > 0 ? pause_ms : SLOW_PAUSE_MS;
    long due = 0;
    for (;;) {
        long wait = -1;
        if (slow_connections != NULL) {
            wait = due - now_ms();
            if (wait <= 0) { step_slow_streams(); due = now_ms() + step_ms; wait = step_ms; }
        }
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, (int)wait);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (c == NULL) { accept_all(listener); continue; }
            if (!c->dead && (events[i].events & EPOLLOUT)) flush(c);
            if (!c->dead && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) receive(c);
        }
        while (dead_connections != NULL) {
            Connection *c = dead_connections;
            dead_connections = c->next_dead;
            free(c->in); free(c->out); free(c);
        }
    }
}
