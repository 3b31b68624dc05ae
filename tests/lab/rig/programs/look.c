/* Prints a name's addresses, as the C library finds them: a line for IPv4, and one for whatever
 * there is.  In place of them: why there are none.  Runs in a container.
 *
 *     look NAME
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void look(const char *name, int family)
{
    struct addrinfo hints, *found, *each;
    char text[INET6_ADDRSTRLEN];
    int error;

    memset(&hints, 0, sizeof hints);
    hints.ai_family = family;
    hints.ai_socktype = SOCK_STREAM;        /* else each address comes once for each type */
    error = getaddrinfo(name, NULL, &hints, &found);
    if (error) {
        printf("%s\n", gai_strerror(error));
        return;
    }
    for (each = found; each; each = each->ai_next) {
        const void *address = each->ai_family == AF_INET
            ? (const void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr
            : (const void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;
        printf("%s%s", inet_ntop(each->ai_family, address, text, sizeof text),
               each->ai_next ? " " : "\n");
    }
    freeaddrinfo(found);
}

int main(int count, char **arguments)
{
    if (count != 2)
        return 2;
    look(arguments[1], AF_INET);
    look(arguments[1], AF_UNSPEC);
    return 0;
}
