// SPDX-License-Identifier: Apache-2.0
// Lets User-Mode-Linux run on processors whose extended state is larger than it knows.
//
// UML writes the state of a guest process with PTRACE_SETREGSET and a buffer of fixed size. Host kernels take only a whole one, and that of a processor
// with AMX is four times as large: each guest process dies at its first instruction. Loaded before libc, this `ptrace` completes a buffer that is too
// short with what the process has.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { STATE_BYTES_MAX = 1 << 16 };

static long write_state(long pid, struct iovec *given) {
  static _Thread_local char state[STATE_BYTES_MAX];
  struct iovec whole = {state, sizeof state};
  if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
    return -1;
  if (given->iov_len >= whole.iov_len)
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
  memcpy(state, given->iov_base, given->iov_len);
  return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...) {
  va_list arguments;
  va_start(arguments, request);
  long pid = va_arg(arguments, pid_t);
  void *address = va_arg(arguments, void *);
  void *data = va_arg(arguments, void *);
  va_end(arguments);
  if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE)
    return write_state(pid, data);
  if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
    // The system call stores the word, the function returns it.
    long word;
    if (syscall(SYS_ptrace, request, pid, address, &word) < 0)
      return -1;
    errno = 0;
    return word;
  }
  return syscall(SYS_ptrace, request, pid, address, data);
}
