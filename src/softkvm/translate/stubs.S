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

        .macro ACCESS_STUB helper
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
// r11 linear address, r10d access descriptor; gives r11 the host address. Flags: dead or in the slot. Called.
        .globl softkvm_stub_access
softkvm_stub_access:
        ACCESS_STUB HELPER_ACCESS

// A check that has failed: r11 the linear address xor the tag compared with, r10 the TLB entry's number if it was the TLB's tag. `mov r10, descriptor`
// follows the call: it is read from there, and does nothing when it is come to. Gives r11 the host address. Flags: dead or in the slot. Called.
        .globl softkvm_stub_miss
softkvm_stub_miss:
        mov gs:[ENGINE_SPILL], rax
        mov rax, [rsp]
        mov eax, [rax + DESCRIPTOR_BEHIND]
        shl r10, 3
        add r10, gs:[ENGINE_VIEW_TLB]
        test eax, ACCESS_WRITE
        jz 1f
        add r10, TLB_ARRAY
1:      xor r11, gs:[r10 + ENGINE_TLB]
        mov r10d, eax
        mov rax, gs:[ENGINE_SPILL]
miss_linear:
        ACCESS_STUB HELPER_MISS

// The same of a group of accesses; the descriptor is the first one's and, above that, what engine.h tells at kGroupDeltaShift: gives r11
// the host address of the group, or ZF where each access has to be checked by itself. Flags: dead or in the slot. Called.
        .globl softkvm_stub_group
softkvm_stub_group:
        SAVE_CALLER_SAVED
        mov rdi, gs:[ENGINE_SELF]
        mov rsi, r11
        mov rax, [rsp]
        mov rdx, [rax + DESCRIPTOR_BEHIND]
        mov rcx, r10
        sub rsp, 8
        call gs:[ENGINE_HELPERS + HELPER_GROUP*8]
        add rsp, 8
        test rax, rax
        jz leave_callee
        mov r11, rax
        cmp rax, 1
        LOAD_CALLER_SAVED
        ret

// As softkvm_stub_miss, with the offset of the site's RecentPage above the descriptor: the TLB's entry, where it has one, becomes the recent page.
        .macro RECENT_STUB name, view, array
        .globl \name
\name:
        mov gs:[ENGINE_SPILL], rax
        mov gs:[ENGINE_SPILL + 8], rcx
        mov gs:[ENGINE_SPILL + 16], rdx
        mov rax, [rsp]
        mov r10, [rax + DESCRIPTOR_BEHIND]
        mov rax, r10
        shr rax, 32
        xor r11, gs:[rax]
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
        jmp miss_linear
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
        cmp rax, 1
        je leave_saved
        ja 1f
        LOAD_CALLER_SAVED
        LOAD_CALLEE_SAVED
        ret
1:      add rsp, 8
        mov gs:[ENGINE_SCRATCH], rax
        LOAD_CALLER_SAVED
        LOAD_CALLEE_SAVED
        mov r11, gs:[ENGINE_TARGET]
        jmp gs:[ENGINE_SCRATCH]

// Instructions in the common case: entered as softkvm_stub_callout, which does all others.

// CLI at CPL 0.
        .globl softkvm_stub_cli
softkvm_stub_cli:
        cmp byte ptr gs:[VCPU_CPL], 0
        jne softkvm_stub_callout
        and dword ptr gs:[VCPU_SYSTEM_FLAGS], 0xfffffdff
        ret

// STI at CPL 0 in 64-bit mode, with no interrupt waiting for it. Nobody waits for the window either: kvm_run::request_interrupt_window is its
// first byte.
        .globl softkvm_stub_sti
softkvm_stub_sti:
        cmp byte ptr gs:[VCPU_CPL], 0
        jne softkvm_stub_callout
        mov r10d, gs:[VCPU_MODE]
        and r10d, 3
        cmp r10d, 2
        jne softkvm_stub_callout
        cmp byte ptr gs:[ENGINE_INTERRUPT_WAITING], 0
        jne softkvm_stub_callout
        mov r10, gs:[VCPU_RUN]
        cmp byte ptr [r10], 0
        jne softkvm_stub_callout
        test dword ptr gs:[VCPU_SYSTEM_FLAGS], 0x200
        jnz 1f
        movzx r10d, byte ptr [r11 + RECORD_LENGTH]
        add r10d, [r11 + RECORD_OFFSET]
        add r10, gs:[VCPU_PAGE_BASE]
        mov gs:[ENGINE_SHADOW_RIP], r10
        mov byte ptr gs:[VCPU_SHADOW_STI], 1
        or dword ptr gs:[VCPU_SYSTEM_FLAGS], 0x200
1:      ret

// SWAPGS at CPL 0 in 64-bit mode.
        .globl softkvm_stub_swapgs
softkvm_stub_swapgs:
        cmp byte ptr gs:[VCPU_CPL], 0
        jne softkvm_stub_callout
        mov r10d, gs:[VCPU_MODE]
        and r10d, 3
        cmp r10d, 2
        jne softkvm_stub_callout
        mov r10, gs:[VCPU_KERNEL_GS_BASE]
        mov r11, gs:[VCPU_SEGMENT_GS_BASE]
        mov gs:[VCPU_SEGMENT_GS_BASE], r10
        mov gs:[VCPU_GS_BASE], r10
        mov gs:[VCPU_KERNEL_GS_BASE], r11
        ret

// Gives r10 RFLAGS as PUSHF stores it in 64-bit mode. r11 is clobbered. Flags in the slot, before and after. Called.
        .globl softkvm_stub_rflags
softkvm_stub_rflags:
        movzx r10d, byte ptr gs:[VCPU_FLAGS + 1]
        movzx r11d, byte ptr gs:[VCPU_FLAGS]
        and r10d, 0xd5
        shl r11d, 11
        or r10d, r11d
        mov r11d, gs:[VCPU_SYSTEM_FLAGS]
        and r11d, 0xfffcffff
        lea r10, [r10 + r11 + 2]
        ret

// REP MOVS and REP STOS in 64-bit mode with 64-bit addresses and no segment that has a base, upwards, by elements of 1 << log bytes.
// Here: inside one page on either side, and the TLB has it.
        .macro IN_PAGE reg, array, log, else
        mov r11, \reg
        shr r11, 9
        and r11d, 0x7fff8               // 8 * the entry's number
        add r11, gs:[ENGINE_VIEW_TLB]
        xor \reg, gs:[r11 + ENGINE_TLB + \array*TLB_ARRAY]
        lea r10, [\reg + rcx * (1 << \log) - 1]
        or r10, \reg                   // the sum alone may have gone round
        cmp r10, 4095
        ja \else
        add \reg, gs:[r11 + ENGINE_TLB + 2*TLB_ARRAY]
        .endm
        .macro STRING_IN_PAGE log
        test dword ptr gs:[VCPU_SYSTEM_FLAGS], 0x400
        jnz softkvm_stub_callout
        cmp rcx, 4096 >> \log
        ja string_pages
        mov gs:[ENGINE_SPILL], rdi
        mov gs:[ENGINE_SPILL + 8], rsi
        mov gs:[ENGINE_SPILL + 16], r11
        IN_PAGE rdi, 1, \log, string_back
        .endm
        .macro STRING_STUBS log, letter
        .globl softkvm_stub_movs\log, softkvm_stub_stos\log
softkvm_stub_movs\log:
        STRING_IN_PAGE \log
        IN_PAGE rsi, 0, \log, string_back
        mov r10, rcx
        rep movs\letter
        mov rdi, gs:[ENGINE_SPILL]
        mov rsi, gs:[ENGINE_SPILL + 8]
        lea rdi, [rdi + r10 * (1 << \log)]
        lea rsi, [rsi + r10 * (1 << \log)]
        ret
softkvm_stub_stos\log:
        STRING_IN_PAGE \log
        mov r10, rcx
        rep stos\letter
        mov rdi, gs:[ENGINE_SPILL]
        lea rdi, [rdi + r10 * (1 << \log)]
        ret
        .endm
        STRING_STUBS 0, b
        STRING_STUBS 1, w
        STRING_STUBS 2, d
        STRING_STUBS 3, q

// The host's address for the guest's in `linear`, by the TLB whose view r8 has. r10 is clobbered.
        .macro HOST_ADDRESS to, linear, array, else
        mov r10, \linear
        shr r10, 12
        movzx r10d, r10w
        lea r10, [r8 + r10*8]
        mov \to, gs:[r10 + ENGINE_TLB + \array*TLB_ARRAY]
        xor \to, \linear
        cmp \to, 4095
        ja \else
        add \to, gs:[r10 + ENGINE_TLB + 2*TLB_ARRAY]
        .endm
// rbx elements of 1 << cl bytes; afterwards rbx and rcx are the other way round.
        .macro REP_BY_SIZE operation
        xchg rcx, rbx
        cmp bl, 1
        jb 40f
        je 41f
        cmp bl, 2
        je 42f
        rep \operation\()q
        jmp 43f
40:     rep \operation\()b
        jmp 43f
41:     rep \operation\()w
        jmp 43f
42:     rep \operation\()d
43:
        .endm
        .macro PAGES_BACK
        mov rax, gs:[ENGINE_SPILL]
        mov rdx, gs:[ENGINE_SPILL + 8]
        mov rbx, gs:[ENGINE_SPILL + 16]
        mov r8, gs:[ENGINE_SPILL + 32]
        .endm

string_back:
        mov rdi, gs:[ENGINE_SPILL]
        mov rsi, gs:[ENGINE_SPILL + 8]
        mov r11, gs:[ENGINE_SPILL + 16]
// The same over several pages, one by one while the TLB has them: rDI, rSI and rCX are at each moment those of an instruction that was
// interrupted there.
string_pages:
        test rcx, rcx
        jz 9f
        mov gs:[ENGINE_SPILL + 24], r11
        mov gs:[ENGINE_SPILL], rax
        mov gs:[ENGINE_SPILL + 8], rdx
        mov gs:[ENGINE_SPILL + 16], rbx
        mov gs:[ENGINE_SPILL + 32], r8
        mov r8, gs:[ENGINE_VIEW_TLB]
1:      mov rdx, rcx                    // rdx: elements left
        mov r11, gs:[ENGINE_SPILL + 24]
        xor ecx, ecx
        test byte ptr [r11 + RECORD_OPCODE], 1
        jz 2f
        movzx ecx, byte ptr [r11 + RECORD_OPERAND_SIZE]
        bsf ecx, ecx                    // log2 of an element's size
2:      mov r10d, edi
        not r10d
        and r10d, 0xfff
        inc r10d                        // bytes to the page's end
        cmp byte ptr [r11 + RECORD_OPCODE], 0xa6
        jae 3f
        mov eax, esi
        not eax
        and eax, 0xfff
        inc eax
        cmp r10d, eax
        cmova r10d, eax
3:      shr r10d, cl                    // which leaves the flags alone where cl is 0
        test r10d, r10d
        jz 8f                           // an element over the page's end
        mov rbx, r10
        cmp rbx, rdx
        cmova rbx, rdx                  // rbx: elements in this round
        HOST_ADDRESS rax, rdi, 1, 8f    // where to
        cmp byte ptr [r11 + RECORD_OPCODE], 0xa6
        jae 5f
        HOST_ADDRESS r11, rsi, 0, 8f    // where from
        mov r10, rbx
        shl r10, cl                     // bytes in this round
        sub rdx, rbx
        add r10, rsi
        mov gs:[ENGINE_SPILL + 40], r10
        sub r10, rsi
        mov rsi, r11
        add r10, rdi                    // what rDI will be
        mov rdi, rax
        REP_BY_SIZE movs
        mov rsi, gs:[ENGINE_SPILL + 40]
        jmp 7f
5:      mov r10, rbx
        shl r10, cl
        sub rdx, rbx
        add r10, rdi
        mov rdi, rax
        mov rax, gs:[ENGINE_SPILL]
        REP_BY_SIZE stos
7:      mov rdi, r10
        mov rcx, rdx
        test rcx, rcx
        jz 6f
        cmp dword ptr gs:[VCPU_ATTENTION], 0
        je 1b
        mov rdx, rcx
8:      mov rcx, rdx                    // the rest is the call-out's
        PAGES_BACK
        mov r11, gs:[ENGINE_SPILL + 24]
        jmp softkvm_stub_callout
6:      PAGES_BACK
9:      ret

// r11 linear address to go on at; r10d the branch that leads there, as branch_descriptor() has it. Flags in the slot. Jumped to.
        .globl softkvm_stub_lookup, softkvm_stub_lookup_branch
softkvm_stub_lookup:
        xor r10d, r10d
softkvm_stub_lookup_branch:
        SAVE_CALLER_SAVED
        mov gs:[ENGINE_TARGET], r11
        mov rdi, gs:[ENGINE_SELF]
        mov rsi, r11
        mov edx, r10d
        call gs:[ENGINE_HELPERS + HELPER_LOOKUP*8]
go_on:
        test rax, rax
        jz leave_callee
        mov gs:[ENGINE_SCRATCH], rax
        LOAD_CALLER_SAVED
        mov r11, gs:[ENGINE_TARGET]
        jmp gs:[ENGINE_SCRATCH]

// Called from where a jump inside the page leads that is not linked, and nothing comes back: the address behind the call says which jump it was.
// Flags in the host's, or in the slot.
        .globl softkvm_stub_link, softkvm_stub_link_slot
softkvm_stub_link:
        mov gs:[ENGINE_SPILL], rax
        lahf
        seto al
        mov gs:[VCPU_FLAGS], ax
        mov rax, gs:[ENGINE_SPILL]
softkvm_stub_link_slot:
        pop r10
        SAVE_CALLER_SAVED
        mov rdi, gs:[ENGINE_SELF]
        mov rsi, r10
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

# Whose GS base this is, called from C++ outside of translated code (host_gs_base.cpp). The read faults where it is nobody's of ours.
        .globl softkvm_stub_gs_owner, softkvm_stub_gs_nobody
softkvm_stub_gs_owner:
        mov rax, gs:[ENGINE_SELF]
        ret
softkvm_stub_gs_nobody:
        xor eax, eax
        ret

# Does RDTSC run on this thread? (native/host_time_stamps.cpp)
        .globl softkvm_stub_rdtsc, softkvm_stub_no_rdtsc
softkvm_stub_rdtsc:
        rdtsc
        mov eax, 1
        ret
softkvm_stub_no_rdtsc:
        xor eax, eax
        ret

        .section .note.GNU-stack, "", @progbits
