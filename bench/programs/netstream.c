/* Bytes in one direction, over one TCP connection or many, written in messages of one size.
 *
 *   netstream serve PORT                        sink: a process a connection; says "ready"
 *   netstream send HOST PORT SECONDS BYTES STREAMS
 *
 * `send` prints one line of JSON: {"bytes", "messages", "seconds"}.  Only what the sinks have
 * read counts: each stream ends with the sink's own number, and the time with the last of them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_BYTES (1 << 20)
#define MAX_STREAMS 256

static char buffer[MAX_BYTES];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void drain(int fd)
{
    uint64_t total = 0;
    ssize_t got;
    while ((got = read(fd, buffer, sizeof(buffer))) > 0)
        total += got;
    if (got < 0 || write(fd, &total, sizeof(total)) != sizeof(total))
        die("sink");
    exit(0);
}

static void serve(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (void *)&address, sizeof(address)) || listen(listener, MAX_STREAMS))
        die("listen");
    signal(SIGCHLD, SIG_IGN); /* nobody waits for the sinks */
    puts("ready");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, 0, 0);
        if (fd < 0)
            continue;
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(listener);
            drain(fd);
        }
        close(fd);
    }
}

static uint64_t stream(const struct sockaddr_in *to, double end_s, int bytes)
{
    uint64_t total = 0;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const void *)to, sizeof(*to)))
        die("connect");
    while (now_s() < end_s)
        for (int i = 0; i < 16; i++) /* the clock is not asked for each small message */
            for (int done = 0; done < bytes;) {
                ssize_t put = write(fd, buffer, bytes - done);
                if (put < 0)
                    die("write");
                done += put;
            }
    shutdown(fd, SHUT_WR);
    for (size_t done = 0; done < sizeof(total);) {
        ssize_t got = read(fd, (char *)&total + done, sizeof(total) - done);
        if (got <= 0)
            die("the sink's answer");
        done += got;
    }
    return total;
}

static int send_streams(const char *host, int port, double seconds, int bytes, int streams)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int results[2];
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1 || bytes < 1 || bytes > MAX_BYTES ||
        streams < 1 || streams > MAX_STREAMS)
        return fputs("netstream: bad host, size or number of streams\n", stderr), 2;
    if (pipe(results))
        die("pipe");
    double begin_s = now_s();
    for (int i = 0; i < streams; i++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            uint64_t total = stream(&to, begin_s + seconds, bytes);
            exit(write(results[1], &total, sizeof(total)) != sizeof(total));
        }
    uint64_t sum = 0, one;
    for (int i = 0, status; i < streams; i++)
        if (wait(&status) < 0 || status)
            return fputs("netstream: a stream failed\n", stderr), 1;
    double took_s = now_s() - begin_s;
    for (int i = 0; i < streams && read(results[0], &one, sizeof(one)) == sizeof(one); i++)
        sum += one;
    printf("{\"bytes\": %llu, \"messages\": %.0f, \"seconds\": %.3f}\n", (unsigned long long)sum,
           (double)sum / bytes, took_s);
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(atoi(argv[2]));
    if (argc == 7 && !strcmp(argv[1], "send"))
        return send_streams(argv[2], atoi(argv[3]), atof(argv[4]), atoi(argv[5]), atoi(argv[6]));
    fputs("usage: netstream serve PORT | send HOST PORT SECONDS BYTES STREAMS\n", stderr);
    return 2;
}
