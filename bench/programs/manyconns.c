/* Very many TCP connections at once.
 *
 *   manyconns serve PORT                accept and keep, echo nothing; epoll; ends when killed
 *   manyconns hold HOST PORT COUNT      open COUNT, say how long each took, keep them until end of
 *                                       standard input, then close
 *   manyconns hold HOST PORT COUNT reset  the same, and reset them: no TIME_WAIT stays
 *
 * `hold` prints {"open", "p50_us", "p99_us"} when all are open.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX 200000

static double took_us[MAX];

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int serve(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event events[256], wanted = {.events = EPOLLIN};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (void *)&address, sizeof(address)) || listen(listener, 4096))
        return perror("listen"), 1;
    wanted.data.fd = listener;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                char byte;
                if (read(fd, &byte, 1) <= 0)
                    close(fd);
                continue;
            }
            wanted.data.fd = accept(listener, 0, 0);
            if (wanted.data.fd >= 0)
                epoll_ctl(epoll, EPOLL_CTL_ADD, wanted.data.fd, &wanted);
        }
    }
}

static int hold(const char *host, int port, int count, int reset)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct linger at_once = {.l_onoff = 1};
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1 || count < 1 || count > MAX)
        return fputs("manyconns: bad host or count\n", stderr), 2;
    for (int i = 0; i < count; i++) {
        double begin = now_us();
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (void *)&to, sizeof(to)))
            return perror("connect"), 1;
        if (reset)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        took_us[i] = now_us() - begin;
    }
    qsort(took_us, count, sizeof(*took_us), ascending);
    printf("{\"open\": %d, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", count, took_us[count / 2],
           took_us[(int)(count * 0.99)]);
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "serve"))
        return serve(atoi(argv[2]));
    if ((argc == 5 || (argc == 6 && !strcmp(argv[5], "reset"))) && !strcmp(argv[1], "hold"))
        return hold(argv[2], atoi(argv[3]), atoi(argv[4]), argc == 6);
    fputs("usage: manyconns serve PORT | hold HOST PORT COUNT [reset]\n", stderr);
    return 2;
}
