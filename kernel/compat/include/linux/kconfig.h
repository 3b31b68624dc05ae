/* BCC's helpers.h refuses to be compiled without it. */
#define CONFIG_BPF_SYSCALL 1
