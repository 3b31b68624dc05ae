// Who is connected to whom, and what names mean, as a Go program sees it.
//
//	names serve :80              the listener's protocol (262: MPTCP), then a line for each connection
//	names call 10.32.0.5:80 20   so many connections, one after the other; the last one's names
//	names look web               the name's addresses; in place of them, why there are none
//	names watch web              the same again and again, a line when it is another than before
//
// With `go 1.24` or later in go.mod, net.Listen makes MPTCP listeners by default.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func serve(address string) {
	listener := must(net.Listen("tcp", address))
	must(listener.(*net.TCPListener).SyscallConn()).Control(func(fd uintptr) {
		fmt.Println(must(syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PROTOCOL)))
	})
	for {
		connection := must(listener.Accept())
		go func() {
			defer connection.Close()
			line := must(bufio.NewReader(connection).ReadString('\n'))
			fmt.Fprintf(connection, "%s", line)
			fmt.Println(connection.LocalAddr(), connection.RemoteAddr())
		}()
	}
}

func call(address string, count int) {
	for i := range count {
		connection := must(net.Dial("tcp", address))
		fmt.Fprintln(connection, i)
		answer := must(bufio.NewReader(connection).ReadString('\n'))
		if answer != fmt.Sprintln(i) {
			panic(answer)
		}
		if i == count-1 {
			fmt.Println(connection.LocalAddr(), connection.RemoteAddr())
		}
		connection.Close()
	}
}

// Go's own resolver, whatever /etc/nsswitch.conf says.
func look(name string) string {
	resolver := net.Resolver{PreferGo: true}
	found, err := resolver.LookupHost(context.Background(), name)
	if err != nil {
		return fmt.Sprint("none: ", err)
	}
	sort.Strings(found)
	return strings.Join(found, " ")
}

func watch(name string) {
	for before := ""; ; time.Sleep(20 * time.Millisecond) {
		if now := look(name); now != before {
			fmt.Println(now)
			before = now
		}
	}
}

func main() {
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2])
	case "call":
		call(os.Args[2], must(strconv.Atoi(os.Args[3])))
	case "look":
		fmt.Println(look(os.Args[2]))
	case "watch":
		watch(os.Args[2])
	}
}
