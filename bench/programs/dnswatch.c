/* Watches names, answers for a network outside, or stands for a container's program.
 *
 *   dnswatch names SERVER PERIOD_US  reads lines of names; asks for those of the last line in turn,
 *                                    one each period, and prints "NAME found|none MOMENT" at once
 *                                    and when that changes
 *   dnswatch serve ADDRESS           a name server by UDP: knows every name that ends with
 *                                    "example", and no other
 *   dnswatch wait                    does nothing until SIGTERM
 *
 * A moment is CLOCK_MONOTONIC, in seconds: the same for all containers of a machine.
 */
#include "dnsquery.h"

static void watch_names(const char *server, long period_us)
{
    static char lines[2][MAX_LINE];
    unsigned char message[MAX_LINE];
    int known[MAX_NAMES], fd = connect_to(server, SOCK_DGRAM), turn = 0;
    uint16_t id = 0;
    for (long n = 0;; n++) {
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, 1, names ? 0 : -1) > 0) {
            char *line = lines[turn ^= 1];  /* the names of the line before lie in the other */
            if (!fgets(line, MAX_LINE, stdin))
                return;
            add_queries(line, " \n");
            memset(known, -1, sizeof(known));
            continue;
        }
        double until_us = now_us() + period_us;
        struct query *query = &queries[n % names];
        number(query, ++id);
        /* An answer that takes longer than a period is still waited for. */
        if (send(fd, query->bytes + 2, query->length, 0) > 0 &&
            answered(fd, id, message, until_us + LOST_US)) {
            int is = has_address(message);
            if (is != known[n % names])
                printf("%s %s %.6f\n", query->name, is ? "found" : "none", now_us() / 1e6);
            known[n % names] = is;
        }
        double left_us = until_us - now_us();
        if (left_us > 0)
            usleep(left_us);
    }
}

static void serve(const char *address)
{
    static const unsigned char record[] = {0xc0, HEADER, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 53};
    static const char ending[] = "\7example";
    unsigned char message[MAX_LINE];
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(PORT)}, asker;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (inet_pton(AF_INET, address, &own.sin_addr) != 1 || fd < 0 ||
        bind(fd, (struct sockaddr *)&own, sizeof(own)))
        die("bind");
    puts("ready");
    for (;;) {
        socklen_t size = sizeof(asker);
        ssize_t got = recvfrom(fd, message, sizeof(message) - sizeof(record), 0,
                               (struct sockaddr *)&asker, &size);
        int end = HEADER;           /* of the question's name */
        while (got > 0 && end < got && message[end])
            end += message[end] + 1;
        if (end + 5 > got)
            continue;
        int at = end + 5, is = end - HEADER >= (int)sizeof(ending) - 1 &&
            !memcmp(message + end - (sizeof(ending) - 1), ending, sizeof(ending) - 1);
        int has = is && message[end + 2] == 1;  /* A */
        message[2] = 0x81;          /* an answer; RD */
        message[3] = is ? 0x80 : 0x83;  /* RA; NXDOMAIN for others */
        memset(message + 6, 0, 6);  /* what else it had (EDNS) is left out */
        message[7] = has;
        if (has) {
            memcpy(message + at, record, sizeof(record));
            at += sizeof(record);
        }
        sendto(fd, message, at, 0, (struct sockaddr *)&asker, size);
    }
}

static void end(int signal_number) { _exit(signal_number == SIGTERM ? 0 : 1); }

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    setvbuf(stdin, NULL, _IONBF, 0);        /* poll does not see what lies in a buffer */
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && !strcmp(mode, "wait")) {
        signal(SIGTERM, end);       /* the first process of a container ignores it otherwise */
        for (;;)
            pause();
    }
    if (argc == 3 && !strcmp(mode, "serve")) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(argv[2]);
    }
    if (argc == 4 && !strcmp(mode, "names")) {
        watch_names(argv[2], atol(argv[3]));
        return 0;
    }
    fputs("usage: dnswatch names|serve|wait ...: see its source\n", stderr);
    return 2;
}
