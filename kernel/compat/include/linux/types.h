/* The kernel's short names for the fixed-width types, which BCC's helpers.h uses. */
#ifndef SLIM_COMPAT_TYPES_H
#define SLIM_COMPAT_TYPES_H
#include <uapi/linux/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
enum { false = 0, true = 1 };
#endif
