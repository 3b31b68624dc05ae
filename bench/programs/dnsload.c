/* A small load tool for name servers: how long queries for A records take, and how many a second.
 *
 *   dnsload each SERVER NAMES COUNT PAUSE_US  one query after the other, with a pause between them
 *   dnsload rate SERVER NAMES SECONDS WINDOW  as many as possible, WINDOW under way at a time
 *   dnsload tcp SERVER NAMES SECONDS BATCH    one after the other by TCP, BATCH for each connection
 *
 * NAMES are asked for in turn; commas stand between them.  SERVER is an IPv4 address, the port is
 * 53.  It prints one line of JSON: {"count", "seconds", "found", "lost", "p50_us", "p99_us",
 * "max_us"}.  `count` is that of answers, `found` of those with an address; a query without an
 * answer for a second is lost.
 */
#include "dnsquery.h"

#define MAX_SAMPLES 4000000

static float *samples;              /* microseconds */
static long count, found, lost;

static void note(double began_us, const unsigned char *message)
{
    if (count < MAX_SAMPLES)
        samples[count] = now_us() - began_us;
    count++;
    found += has_address(message);
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(double seconds)
{
    long kept = count < MAX_SAMPLES ? count : MAX_SAMPLES;
    qsort(samples, kept, sizeof(*samples), compare);
    printf("{\"count\": %ld, \"seconds\": %.6f, \"found\": %ld, \"lost\": %ld, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"max_us\": %.1f}\n", count, seconds, found, lost,
           kept ? samples[kept / 2] : 0, kept ? samples[kept * 99 / 100] : 0,
           kept ? samples[kept - 1] : 0);
}

static void each(const char *server, long wanted, long pause_us)
{
    unsigned char message[MAX_LINE];
    int fd = connect_to(server, SOCK_DGRAM);
    double start_us = now_us();
    for (long n = 0; n < wanted; n++) {
        struct query *query = &queries[n % names];
        number(query, n);
        double began_us = now_us();
        if (send(fd, query->bytes + 2, query->length, 0) > 0 &&
            answered(fd, n, message, began_us + LOST_US))
            note(began_us, message);
        else
            lost++;
        if (pause_us)
            usleep(pause_us);
    }
    report((now_us() - start_us) / 1e6);
}

static void rate(const char *server, double seconds, int window)
{
    static double sent_us[65536];   /* by number; 0: no such query is under way */
    unsigned char message[MAX_LINE];
    int fd = connect_to(server, SOCK_DGRAM), under_way = 0;
    uint16_t next = 0, oldest = 0;
    double start_us = now_us(), end_us = start_us + seconds * 1e6, at_us;
    while ((at_us = now_us()) < end_us) {
        for (; under_way < window; under_way++) {
            struct query *query = &queries[next % names];
            number(query, next);
            sent_us[next++] = now_us();
            send(fd, query->bytes + 2, query->length, 0);   /* refused: lost in a second */
        }
        struct pollfd one = {.fd = fd, .events = POLLIN};
        poll(&one, 1, 10);
        ssize_t got;
        while ((got = recv(fd, message, sizeof(message), MSG_DONTWAIT)) >= HEADER) {
            uint16_t id = id_of(message);
            if (!sent_us[id])
                continue;
            note(sent_us[id], message);
            sent_us[id] = 0;
            under_way--;
        }
        for (; oldest != next && (!sent_us[oldest] || at_us - sent_us[oldest] > LOST_US); oldest++)
            if (sent_us[oldest]) {
                sent_us[oldest] = 0;
                under_way--;
                lost++;
            }
    }
    report((now_us() - start_us) / 1e6);
}

static int read_all(int fd, unsigned char *at, int length)
{
    return recv(fd, at, length, MSG_WAITALL) == length;
}

static void tcp(const char *server, double seconds, int batch)
{
    static unsigned char message[65536];
    double start_us = now_us();
    struct timeval patience = {.tv_sec = 1};
    for (long n = 0; now_us() - start_us < seconds * 1e6;) {
        int fd = connect_to(server, SOCK_STREAM);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        for (int i = 0; i < batch; i++, n++) {
            struct query *query = &queries[n % names];
            double began_us = now_us();
            number(query, n);
            if (send(fd, query->bytes, query->length + 2, MSG_NOSIGNAL) != query->length + 2 ||
                !read_all(fd, message, 2) || !read_all(fd, message, id_of(message))) {
                lost++;
                break;
            }
            note(began_us, message);
        }
        close(fd);
    }
    report((now_us() - start_us) / 1e6);
}

int main(int argc, char **argv)
{
    const char *mode = argc == 6 ? argv[1] : "";
    samples = calloc(MAX_SAMPLES, sizeof(*samples));
    if (!samples)
        die("memory");
    if (*mode)
        add_queries(argv[3], ",");
    if (names && !strcmp(mode, "each"))
        each(argv[2], atol(argv[4]), atol(argv[5]));
    else if (names && !strcmp(mode, "rate"))
        rate(argv[2], atof(argv[4]), atoi(argv[5]));
    else if (names && !strcmp(mode, "tcp"))
        tcp(argv[2], atof(argv[4]), atoi(argv[5]));
    else {
        fputs("usage: dnsload each|rate|tcp SERVER NAMES ...: see its source\n", stderr);
        return 2;
    }
    return 0;
}
