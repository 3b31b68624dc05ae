/* A small load tool: round trips and connections per second, with time percentiles.
 *
 *   netbench serve PORT                     echo server, TCP and UDP, epoll, ends with its parent;
 *                                           on PORT + 2 it closes each connection after its first
 *                                           answer; on PORT + 4 to PORT + 7 as on PORT
 *   netbench rr  HOST PORT SECONDS [BYTES]  one connection, request and answer in turn
 *   netbench urr HOST PORT SECONDS [BYTES]  the same in datagrams; one without answer is sent again
 *                                           after 200 ms, and counted in "lost"
 *   netbench crr HOST PORT SECONDS [BYTES]  connect, one request and answer, close, again
 *   netbench crr4 …                         the same, PORT + 4 to PORT + 7 in turn
 *   netbench crr+ …                         the same, and wait for the server to close first
 *
 * Clients print one line of JSON: {"count", "seconds", "lost", "p50_us", "p99_us", "p999_us",
 * "connect_p50_us", "connect_p99_us"}; the percentiles of `rr` are of a round trip, those of
 * `crr` of the whole transaction.  With `crr` to PORT the client closes first, with `crr+` to PORT + 2
 * the server: then TIME_WAIT is the server's, and no client runs out of ports.  `crr4` is for long
 * runs in which the client closes first: a tuple rests in TIME_WAIT for a minute.
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
#define MORE_PORTS 4

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

static int datagrams_on(int epoll, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (bind(fd, (void *)&address, sizeof(address)))
        die("bind");
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted);
    return fd;
}

static void echo_datagram(int fd)
{
    struct sockaddr_in from;
    socklen_t size = sizeof(from);
    ssize_t got = recvfrom(fd, buffer, sizeof(buffer), 0, (void *)&from, &size);
    if (got >= 0)
        sendto(fd, buffer, got, 0, (void *)&from, size);
}

static void serve(int port)
{
    static char listening[MAX_FILES], once[MAX_FILES]; /* by descriptor: close after the first answer */
    struct epoll_event events[256], wanted = {.events = EPOLLIN};
    int epoll = epoll_create1(0);
    int closing = listen_on(epoll, port + 2), datagrams = datagrams_on(epoll, port);
    listening[listen_on(epoll, port)] = listening[closing] = 1;
    for (int i = 4; i < 4 + MORE_PORTS; i++)
        listening[listen_on(epoll, port + i)] = 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == datagrams) {
                echo_datagram(fd);
                continue;
            }
            if (listening[fd]) {
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

static int dial(const struct sockaddr_in *to, int type)
{
    int fd = socket(AF_INET, type, 0);
    if (fd < 0 || connect(fd, (const void *)to, sizeof(*to)))
        die("connect");
    if (type == SOCK_STREAM)
        no_delay(fd);
    struct timeval patience = {.tv_usec = 200000};
    if (type == SOCK_DGRAM)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

/* Sends the datagram until an answer comes, for ten seconds; returns how often none came. */
static int datagram_round_trip(int fd, int bytes)
{
    for (int lost = 0; lost < 50; lost++) {
        if (send(fd, buffer, bytes, 0) != bytes)
            die("send");
        if (recv(fd, buffer, sizeof(buffer), 0) >= 0)
            return lost;
        if (errno != EAGAIN)
            die("recv");
    }
    fputs("netbench: no answer to 50 datagrams\n", stderr);
    exit(1);
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

static int load(const char *kind, const char *host, int port, double seconds, int bytes)
{
    int per_connection = kind[0] == 'c', server_closes = !strcmp(kind, "crr+");
    int spread = !strcmp(kind, "crr4"), datagrams = kind[0] == 'u';
    static float whole[MAX_SAMPLES], connecting[MAX_SAMPLES];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1 || bytes < 1 || bytes > MAX_BYTES) {
        fprintf(stderr, "netbench: bad host or size\n");
        return 2;
    }
    long count = 0, samples = 0, lost = 0;
    int fd = per_connection ? -1 : dial(&to, datagrams ? SOCK_DGRAM : SOCK_STREAM);
    double begin = now_us(), end = begin + seconds * 1e6, before, connected;
    while ((before = now_us()) < end) {
        if (spread)
            to.sin_port = htons(port + 4 + count % MORE_PORTS);
        if (per_connection)
            fd = dial(&to, SOCK_STREAM);
        connected = now_us();
        if (datagrams)
            lost += datagram_round_trip(fd, bytes);
        else
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
    printf("{\"count\": %ld, \"seconds\": %.3f, \"lost\": %ld, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"connect_p50_us\": %.1f, \"connect_p99_us\": %.1f}\n",
           count, took, lost, at(whole, samples, 0.5), at(whole, samples, 0.99),
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
    if (argc >= 5)
        for (const char **kind = (const char *[]){"rr", "urr", "crr", "crr4", "crr+", 0}; *kind; kind++)
            if (!strcmp(argv[1], *kind))
                return load(*kind, argv[2], atoi(argv[3]), atof(argv[4]),
                            argc > 5 ? atoi(argv[5]) : 1);
    fputs("usage: netbench serve PORT | rr|urr|crr|crr4|crr+ HOST PORT SECONDS [BYTES]\n", stderr);
    return 2;
}
