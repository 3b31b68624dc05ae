/* Loaded before a client (LD_PRELOAD): binds its TCP sockets to BIND_ADDRESS before they connect.
 *
 * A socket that is bound to its virtual address takes slim's overlay path; so any client shows what
 * that path gives.  Sockets that are bound already, and connections over loopback, stay as they are.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

int connect(int fd, const struct sockaddr *to, socklen_t length)
{
    static int (*next)(int, const struct sockaddr *, socklen_t);
    const char *address = getenv("BIND_ADDRESS");
    int type = 0, one = 1;
    socklen_t size = sizeof(type);
    struct sockaddr_in own = {.sin_family = AF_INET}, now = {0};
    if (!next)
        next = dlsym(RTLD_NEXT, "connect");
    if (address && to->sa_family == AF_INET && inet_pton(AF_INET, address, &own.sin_addr) == 1 &&
        ntohl(((const struct sockaddr_in *)to)->sin_addr.s_addr) >> 24 != 127 &&
        !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) && type == SOCK_STREAM) {
        size = sizeof(now);
        if (!getsockname(fd, (void *)&now, &size) && now.sin_port == 0 && now.sin_addr.s_addr == 0) {
            /* The port is chosen by connect(), as for a client that binds nothing. */
            setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
            if (bind(fd, (void *)&own, sizeof(own)))
                return -1;
        }
    }
    return next(fd, to, length);
}
