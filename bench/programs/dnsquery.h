/* What dnsload and dnswatch share: queries for A records, answers, and the clock. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_NAMES 16
#define MAX_LINE 2048
#define HEADER 12
#define LOST_US 1e6                 /* after that nobody waits for an answer any more */
#define PORT 53

struct query {
    unsigned char bytes[2 + 300];   /* the length as by TCP, and the message */
    int length;                     /* of the message */
    const char *name;
};

static struct query queries[MAX_NAMES];
static int names;
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

static void add_query(const char *name)
{
    struct query *query = &queries[names++];
    unsigned char *at = query->bytes + 2;
    static const unsigned char header[HEADER] = {0, 0, 1, 0, 0, 1};   /* RD; one question */
    memcpy(at, header, HEADER);
    at += HEADER;
    query->name = name;
    for (const char *label = name; *label;) {
        size_t length = strcspn(label, ".");
        *at++ = length;
        memcpy(at, label, length);
        at += length;
        label += length + (label[length] == '.');
    }
    memcpy(at, "\0\0\1\0\1", 5);    /* the root; A; IN */
    query->length = at + 5 - (query->bytes + 2);
    query->bytes[0] = query->length >> 8;
    query->bytes[1] = query->length & 255;
}

static void add_queries(char *text, const char *separators)
{
    names = 0;
    for (char *name = strtok(text, separators); name && names < MAX_NAMES;
         name = strtok(NULL, separators))
        if (strlen(name) < 250)
            add_query(name);
}

static void number(struct query *query, uint16_t id)
{
    query->bytes[2] = id >> 8;
    query->bytes[3] = id & 255;
}

static uint16_t id_of(const unsigned char *message) { return message[0] << 8 | message[1]; }

static int has_address(const unsigned char *message)
{
    return (message[3] & 15) == 0 && (message[6] << 8 | message[7]) > 0;
}

static int connect_to(const char *server, int type)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, server, &to.sin_addr) != 1) {
        fprintf(stderr, "%s is no IPv4 address\n", server);
        exit(2);
    }
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)))
        die("connect");
    return fd;
}

/* Waits for the answer with this number; returns whether it came. */
static int answered(int fd, uint16_t id, unsigned char *message, double until_us)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    for (;;) {
        double left_us = until_us - now_us();
        if (left_us <= 0)
            return 0;
        struct timespec wait = {left_us / 1e6, (long)(left_us * 1e3) % 1000000000L};
        if (ppoll(&one, 1, &wait, NULL) <= 0)
            continue;
        ssize_t got = recv(fd, message, MAX_LINE, 0);
        if (got >= HEADER && id_of(message) == id)
            return 1;
    }
}
