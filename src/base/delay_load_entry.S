// SPDX-License-Identifier: Apache-2.0
// From a stand-in (delay_load_macros.inc) whose library is not loaded yet: loads it and starts the stand-in again. The caller's arguments
// stay as they are: the System V ABI (AMD64 supplement, 3.2.3) passes them in six general registers and xmm0 to xmm7, the number of
// those in al for functions of variable arguments, and a static chain in r10. r11 belongs to nobody at a call.
  .text
  .globl vireo_delay_load_entry
  .hidden vireo_delay_load_entry
  .type vireo_delay_load_entry, @function
// r11: the DelayedLibrary; on the stack the stand-in, above it the caller's return address.
vireo_delay_load_entry:
  .cfi_startproc
  .cfi_def_cfa_offset 16
  push %rbp
  .cfi_def_cfa_offset 24
  .cfi_offset %rbp, -24
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  push %rax
  push %rdi
  push %rsi
  push %rdx
  push %rcx
  push %r8
  push %r9
  push %r10
  sub $136, %rsp  // eight registers of 16 bytes, and 8 for the alignment
  .irp i, 0, 1, 2, 3, 4, 5, 6, 7
  movaps %xmm\i, 16*\i(%rsp)
  .endr
  mov %r11, %rdi
  call vireo_delay_load_now
  .irp i, 0, 1, 2, 3, 4, 5, 6, 7
  movaps 16*\i(%rsp), %xmm\i
  .endr
  add $136, %rsp
  pop %r10
  pop %r9
  pop %r8
  pop %rcx
  pop %rdx
  pop %rsi
  pop %rdi
  pop %rax
  pop %rbp
  .cfi_def_cfa %rsp, 16
  .cfi_restore %rbp
  pop %r11
  .cfi_def_cfa_offset 8
  jmp *%r11
  .cfi_endproc
  .size vireo_delay_load_entry, . - vireo_delay_load_entry
  .section .note.GNU-stack, "", @progbits
