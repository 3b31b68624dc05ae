/* A client and a server without a dynamic linker: what no preloaded library could reach.
 *
 *   static_tool serve PORT          echo one message per connection, a child each
 *   static_tool ask ADDRESS PORT    send "hello", print the answer and all names
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void print_names(int fd)
{
    struct sockaddr_in own, peer;
    socklen_t size = sizeof(own);
    char a[16], b[16];
    getsockname(fd, (struct sockaddr *)&own, &size);
    size = sizeof(peer);
    getpeername(fd, (struct sockaddr *)&peer, &size);
    printf("%s %d %s %d\n", inet_ntop(AF_INET, &own.sin_addr, a, 16), ntohs(own.sin_port),
           inet_ntop(AF_INET, &peer.sin_addr, b, 16), ntohs(peer.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char buffer[100];
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (argc == 3 && !strcmp(argv[1], "serve")) {
        address.sin_port = htons(atoi(argv[2]));
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 16))
            return 1;
        puts("ready");
        fflush(stdout);
        for (;;) {
            int connection = accept(fd, 0, 0);
            if (fork()) {
                close(connection);
                continue;
            }
            print_names(connection);
            write(connection, buffer, read(connection, buffer, sizeof(buffer)));
            return 0;
        }
    }
    if (argc == 4 && !strcmp(argv[1], "ask")) {
        address.sin_port = htons(atoi(argv[3]));
        address.sin_addr.s_addr = inet_addr(argv[2]);
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
            return 1;
        write(fd, "hello", 5);
        printf("%.*s\n", (int)read(fd, buffer, sizeof(buffer)), buffer);
        print_names(fd);
        return 0;
    }
    return 2;
}
