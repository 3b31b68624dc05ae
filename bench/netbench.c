/* A small TCP load tool: round trips and connections per second, with time percentiles.
 *
 *   netbench serve PORT                     echo server, epoll, ends with its parent; on PORT + 2
 *                                           it closes each connection after its first answer
 *   netbench rr  HOST PORT SECONDS [BYTES]  one connection, request and answer in turn
 *   netbench crr HOST PORT SECONDS [BYTES]  connect, one request and answer, close, again
 *   netbench crr+ …                         the same, and wait for the server to close first
 *
 * Clients print one line of JSON: {"count", "seconds", "p50_us", "p99_us", "p999_us",
 * "connect_p50_us", "connect_p99_us"}; the percentiles of `rr` are of a round trip, those of
 * `crr` of the whole transaction.  With `crr` to PORT the client closes first, with `crr+` to PORT + 2
 * the server: then TIME_WAIT is the server's, and no client runs out of ports.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_BYTES 65536
#define MAX_SAMPLES 4000000
#define MAX_FILES 65536

static char buffer[MAX_BYTES];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void no_delay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int listen_on(int epoll, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (void *)&address, sizeof(address)) || listen(listener, 4096))
        die("listen");
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted);
    return listener;
}

static void serve(int port)
{
    static char once[MAX_FILES]; /* by descriptor: close after the first answer */
    struct epoll_event events[256], wanted = {.events = EPOLLIN};
    int epoll = epoll_create1(0);
    int keeping = listen_on(epoll, port), closing = listen_on(epoll, port + 2);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == keeping || fd == closing) {
                int accepted = accept(fd, 0, 0);
                if (accepted < 0)
                    continue;
                if (accepted >= MAX_FILES) {
                    close(accepted);
                    continue;
                }
                once[accepted] = fd == closing;
                no_delay(accepted);
                wanted.data.fd = accepted;
                epoll_ctl(epoll, EPOLL_CTL_ADD, accepted, &wanted);
                continue;
            }
            ssize_t got = read(fd, buffer, sizeof(buffer));
            if (got <= 0 || write(fd, buffer, got) != got || once[fd])
                close(fd);
        }
    }
}

static int dial(const struct sockaddr_in *to)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const void *)to, sizeof(*to)))
        die("connect");
    no_delay(fd);
    return fd;
}

static void round_trip(int fd, int bytes)
{
    if (write(fd, buffer, bytes) != bytes)
        die("write");
    for (int left = bytes; left > 0;) {
        ssize_t got = read(fd, buffer, left);
        if (got <= 0)
            die("read");
        left -= got;
    }
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double at(const float *sorted, long n, double share)
{
    return n ? sorted[(long)(share * (n - 1))] : 0;
}

static int load(int per_connection, int server_closes, const char *host, int port,
                double seconds, int bytes)
{
    static float whole[MAX_SAMPLES], connecting[MAX_SAMPLES];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1 || bytes < 1 || bytes > MAX_BYTES) {
        fprintf(stderr, "netbench: bad host or size\n");
        return 2;
    }
    long count = 0, samples = 0;
    int fd = per_connection ? -1 : dial(&to);
    double begin = now_us(), end = begin + seconds * 1e6, before, connected;
    while ((before = now_us()) < end) {
        if (per_connection)
            fd = dial(&to);
        connected = now_us();
        round_trip(fd, bytes);
        if (per_connection) {
            if (server_closes && read(fd, buffer, 1) != 0)
                die("end of connection");
            close(fd);
        }
        if (samples < MAX_SAMPLES) {
            connecting[samples] = connected - before;
            whole[samples++] = now_us() - before;
        }
        count++;
    }
    double took = (now_us() - begin) / 1e6;
    qsort(whole, samples, sizeof(float), ascending);
    qsort(connecting, samples, sizeof(float), ascending);
    printf("{\"count\": %ld, \"seconds\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"connect_p50_us\": %.1f, \"connect_p99_us\": %.1f}\n",
           count, took, at(whole, samples, 0.5), at(whole, samples, 0.99),
           at(whole, samples, 0.999), at(connecting, samples, 0.5),
           at(connecting, samples, 0.99));
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "serve")) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(atoi(argv[2]));
    }
    if (argc >= 5 && (!strcmp(argv[1], "rr") || !strcmp(argv[1], "crr") || !strcmp(argv[1], "crr+")))
        return load(argv[1][0] == 'c', argv[1][3] == '+', argv[2], atoi(argv[3]), atof(argv[4]),
                    argc > 5 ? atoi(argv[5]) : 1);
    fprintf(stderr, "usage: netbench serve PORT | rr|crr HOST PORT SECONDS [BYTES]\n");
    return 2;
}
