// SPDX-License-Identifier: Apache-2.0
// The doors between C++ and translated code, and the call-outs from it. GS points at the vCPU. In translated code guest registers are
// in the host registers of the same name, but RSP (in r9) and r9, r10, r11 (in their slots); r10 and r11 are scratch; the host's RSP is
// 16-byte aligned. Status flags are in the host's, in the slot VCPU_FLAGS, or dead, as each stub says.
#include "softkvm/translate/layout.h"
        .intel_syntax noprefix
        .text

        .macro SAVE_CALLER_SAVED
        mov gs:[VCPU_GPR + 0*8], rax
        mov gs:[VCPU_GPR + 1*8], rcx
        mov gs:[VCPU_GPR + 2*8], rdx
        mov gs:[VCPU_GPR + 6*8], rsi
        mov gs:[VCPU_GPR + 7*8], rdi
        mov gs:[VCPU_GPR + 8*8], r8
        mov gs:[VCPU_GPR + 4*8], r9
        .endm
        .macro SAVE_CALLEE_SAVED
        mov gs:[VCPU_GPR + 3*8], rbx
        mov gs:[VCPU_GPR + 5*8], rbp
        mov gs:[VCPU_GPR + 12*8], r12
        mov gs:[VCPU_GPR + 13*8], r13
        mov gs:[VCPU_GPR + 14*8], r14
        mov gs:[VCPU_GPR + 15*8], r15
        .endm
        .macro LOAD_CALLER_SAVED
        mov rax, gs:[VCPU_GPR + 0*8]
        mov rcx, gs:[VCPU_GPR + 1*8]
        mov rdx, gs:[VCPU_GPR + 2*8]
        mov rsi, gs:[VCPU_GPR + 6*8]
        mov rdi, gs:[VCPU_GPR + 7*8]
        mov r8, gs:[VCPU_GPR + 8*8]
        mov r9, gs:[VCPU_GPR + 4*8]
        .endm
        .macro LOAD_CALLEE_SAVED
        mov rbx, gs:[VCPU_GPR + 3*8]
        mov rbp, gs:[VCPU_GPR + 5*8]
        mov r12, gs:[VCPU_GPR + 12*8]
        mov r13, gs:[VCPU_GPR + 13*8]
        mov r14, gs:[VCPU_GPR + 14*8]
        mov r15, gs:[VCPU_GPR + 15*8]
        .endm

// void softkvm_enter(const void* code, uint64_t linear): runs translated code from its indirect entry until it leaves.
        .globl softkvm_enter
        .type softkvm_enter, @function
softkvm_enter:
        endbr64
        push rbp
        push rbx
        push r12
        push r13
        push r14
        push r15
        sub rsp, 8
        mov gs:[ENGINE_HOST_RSP], rsp
        mov gs:[ENGINE_SCRATCH], rdi
        mov r11, rsi
        LOAD_CALLER_SAVED
        LOAD_CALLEE_SAVED
        jmp gs:[ENGINE_SCRATCH]

leave_all:
        SAVE_CALLER_SAVED
leave_callee:
        SAVE_CALLEE_SAVED
leave_saved:
        mov rsp, gs:[ENGINE_HOST_RSP]
        add rsp, 8
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbx
        pop rbp
        cld
        ret

// r11 linear address, r10d access descriptor; gives r11 the host address. Flags: dead or in the slot. Called.
        .macro ACCESS_STUB name, helper
        .globl \name
\name:
        SAVE_CALLER_SAVED
        mov rdi, gs:[ENGINE_SELF]
        mov rsi, r11
        mov edx, r10d
        sub rsp, 8
        call gs:[ENGINE_HELPERS + \helper*8]
        add rsp, 8
        test rax, rax
        jz leave_callee
        mov r11, rax
        LOAD_CALLER_SAVED
        ret
        .endm
        ACCESS_STUB softkvm_stub_miss, HELPER_MISS
        ACCESS_STUB softkvm_stub_access, HELPER_ACCESS

// r11 linear address, r10 the access descriptor and, above it, the offset of the site's RecentPage: the TLB's entry, where it has one,
// becomes the recent page; else as softkvm_stub_miss. Flags: dead or in the slot. Called.
        .macro RECENT_STUB name, view, array
        .globl \name
\name:
        mov gs:[ENGINE_SPILL], rax
        mov gs:[ENGINE_SPILL + 8], rcx
        mov gs:[ENGINE_SPILL + 16], rdx
        mov rax, r11
        shr rax, 12
        movzx eax, ax
        mov rcx, gs:[ENGINE_TLB + \view*TLB_VIEW + \array*TLB_ARRAY + rax*8]
        xor r11, rcx
        mov edx, r10d
        shr edx, 12
        and edx, 0x3ff
        neg rdx
        add rdx, 4096
        cmp r11, rdx
        ja 1f
        mov rax, gs:[ENGINE_TLB + \view*TLB_VIEW + 2*TLB_ARRAY + rax*8]
        shr r10, 32
        mov gs:[r10], rcx
        mov gs:[r10 + 8], rax
        add r11, rax
        mov rax, gs:[ENGINE_SPILL]
        mov rcx, gs:[ENGINE_SPILL + 8]
        mov rdx, gs:[ENGINE_SPILL + 16]
        ret
1:      xor r11, rcx
        mov rax, gs:[ENGINE_SPILL]
        mov rcx, gs:[ENGINE_SPILL + 8]
        mov rdx, gs:[ENGINE_SPILL + 16]
        jmp softkvm_stub_miss
        .endm
        RECENT_STUB softkvm_stub_recent_read0, 0, 0
        RECENT_STUB softkvm_stub_recent_write0, 0, 1
        RECENT_STUB softkvm_stub_recent_read1, 1, 0
        RECENT_STUB softkvm_stub_recent_write1, 1, 1
        RECENT_STUB softkvm_stub_recent_read2, 2, 0
        RECENT_STUB softkvm_stub_recent_write2, 2, 1

// r11 the call-out record. Flags in the slot, before and after. Called.
        .globl softkvm_stub_callout
softkvm_stub_callout:
        SAVE_CALLER_SAVED
        SAVE_CALLEE_SAVED
        mov rdi, gs:[ENGINE_SELF]
        mov rsi, r11
        sub rsp, 8
        call gs:[ENGINE_HELPERS + HELPER_CALLOUT*8]
        add rsp, 8
        test eax, eax
        jnz leave_saved
        LOAD_CALLER_SAVED
        LOAD_CALLEE_SAVED
        ret

// r11 linear address to go on at. Flags in the slot. Jumped to.
        .globl softkvm_stub_lookup
softkvm_stub_lookup:
        SAVE_CALLER_SAVED
        mov gs:[ENGINE_TARGET], r11
        mov rdi, gs:[ENGINE_SELF]
        mov rsi, r11
        call gs:[ENGINE_HELPERS + HELPER_LOOKUP*8]
go_on:
        test rax, rax
        jz leave_callee
        mov gs:[ENGINE_SCRATCH], rax
        LOAD_CALLER_SAVED
        mov r11, gs:[ENGINE_TARGET]
        jmp gs:[ENGINE_SCRATCH]

// r11 linear address to go on at, r10 the jump to patch. Flags in the host's, or in the slot. Jumped to.
        .globl softkvm_stub_link, softkvm_stub_link_slot
softkvm_stub_link:
        mov gs:[ENGINE_SPILL], rax
        lahf
        seto al
        mov gs:[VCPU_FLAGS], ax
        mov rax, gs:[ENGINE_SPILL]
softkvm_stub_link_slot:
        SAVE_CALLER_SAVED
        mov gs:[ENGINE_TARGET], r11
        mov rdi, gs:[ENGINE_SELF]
        mov rsi, r11
        mov rdx, r10
        call gs:[ENGINE_HELPERS + HELPER_LINK*8]
        jmp go_on

// r11 linear address to go on at. Flags in the slot. Jumped to.
        .globl softkvm_stub_poll
softkvm_stub_poll:
        mov gs:[ENGINE_TARGET], r11
        mov dword ptr gs:[ENGINE_REASON], REASON_ATTENTION
        jmp leave_all

        .globl softkvm_stub_step_done
softkvm_stub_step_done:
        mov gs:[ENGINE_TARGET], r11
        mov dword ptr gs:[ENGINE_REASON], REASON_STEP_DONE
        jmp leave_all

// Where the signal handler sends a vCPU whose guest instruction raised a host exception; flags: the handler's affair.
        .globl softkvm_stub_host_fault
softkvm_stub_host_fault:
        mov dword ptr gs:[ENGINE_REASON], REASON_HOST_FAULT
        jmp leave_all

        .section .note.GNU-stack, "", @progbits
