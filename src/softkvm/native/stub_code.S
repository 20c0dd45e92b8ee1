// SPDX-License-Identifier: Apache-2.0
// The only code of ours in a stub process (docs/native.md). The guest's code can jump anywhere in here: so what must not be its to decide is in no
// register and on no page that it can write, and each SYSCALL is good for one thing, by its address (stub_filter.cpp).
// Position independent; copied into the stub's image.
#include <sys/syscall.h>

#include "softkvm/native/stub_layout.h"

#define PR_SET_SYSCALL_USER_DISPATCH 59
#define OFF 0
#define ON 1

        .intel_syntax noprefix
        .section .rodata
        .globl softkvm_native_code, softkvm_native_list_ip, softkvm_native_on_ip, softkvm_native_stop_ip, softkvm_native_handler, softkvm_native_restore
        .globl softkvm_native_trap, softkvm_native_code_end
softkvm_native_code:                    // the program starts here
        mov eax, SYS_mmap
        mov edi, STUB_LIST
        mov esi, STUB_LIST_SIZE
        mov edx, 1                      // PROT_READ
        mov r10d, 0x11                  // MAP_SHARED | MAP_FIXED
        mov r8d, STUB_FILE
        xor r9d, r9d
        syscall
        cmp rax, STUB_LIST
        jne die

list:   mov ebx, STUB_LIST
1:      mov rax, [rbx]
        cmp rax, -1
        je 2f
        mov rdi, [rbx + 8]
        mov rsi, [rbx + 16]
        mov rdx, [rbx + 24]
        mov r10, [rbx + 32]
        mov r8, [rbx + 40]
        mov r9, [rbx + 48]
        syscall
softkvm_native_list_ip:
        cmp rax, -4095
        jae failed
        add rbx, STUB_CALL_SIZE
        jmp 1b
        // From here on, again, the one at `stop` is the only one that is not a signal.
2:      mov eax, SYS_prctl
        mov edi, PR_SET_SYSCALL_USER_DISPATCH
        mov esi, ON
        lea rdx, [rip + softkvm_native_stop_ip]
        mov r10d, 1
        xor r8d, r8d
        syscall
softkvm_native_on_ip:
        test rax, rax
        jnz die
        cmp qword ptr [STUB_HOLD], 0
        je softkvm_native_restore
        xor r9d, r9d                    // no frame: the list is done
        jmp stop
failed: mov r9d, 1
        jmp stop

        // All signals: rdx is the frame.
softkvm_native_handler:
        mov r9, rdx
        mov eax, ds
        mov [STUB_SEEN + 16], rax
        mov eax, es
        mov [STUB_SEEN + 24], rax
        mov eax, fs
        mov [STUB_SEEN + 32], rax
        mov eax, gs
        mov [STUB_SEEN + 40], rax
        cmp qword ptr [STUB_BASES], 0
        je stop
        rdfsbase rax
        mov [STUB_SEEN], rax
        rdgsbase rax
        mov [STUB_SEEN + 8], rax

        // The monitor learns of this call by seccomp's notification, with r9, and lets it be done, which opens the list, or gives it 1; or 2, for
        // handlers that have interrupted each other to be left.
stop:   mov eax, SYS_prctl
        mov edi, PR_SET_SYSCALL_USER_DISPATCH
        xor esi, esi
        xor edx, edx
        xor r10d, r10d
        xor r8d, r8d
        syscall
softkvm_native_stop_ip:
        test rax, rax
        jz list
        cmp rax, 1
        je softkvm_native_restore
        cmp rax, 2
        jne die
        mov esp, STUB_REGISTERS         // not in the handlers' stack: the next one begins at its top
        mov r9d, 2
        jmp stop

softkvm_native_restore:
        cmp qword ptr [STUB_BASES], 0
        je 1f
        mov rax, [STUB_REGISTERS + 144]
        wrfsbase rax
        mov rax, [STUB_REGISTERS + 152]
        wrgsbase rax
1:      mov eax, -1
        mov edx, -1
        xrstor64 [STUB_XSAVE]
        mov esp, STUB_REGISTERS + 136
        popfq
        mov r15, [STUB_REGISTERS]
        mov r14, [STUB_REGISTERS + 8]
        mov r13, [STUB_REGISTERS + 16]
        mov r12, [STUB_REGISTERS + 24]
        mov r11, [STUB_REGISTERS + 32]
        mov r10, [STUB_REGISTERS + 40]
        mov r9, [STUB_REGISTERS + 48]
        mov r8, [STUB_REGISTERS + 56]
        mov rdi, [STUB_REGISTERS + 64]
        mov rsi, [STUB_REGISTERS + 72]
        mov rbp, [STUB_REGISTERS + 80]
        mov rbx, [STUB_REGISTERS + 88]
        mov rdx, [STUB_REGISTERS + 96]
        mov rcx, [STUB_REGISTERS + 104]
        mov rax, [STUB_REGISTERS + 112]
        mov rsp, [STUB_REGISTERS + 120]
        jmp qword ptr [STUB_REGISTERS + 128]

die:    ud2
softkvm_native_trap:                    // as the guest's code, to see what a trap costs. No exception: UD2 is an exit to the hypervisor where the host is a guest
        syscall
softkvm_native_code_end:
        .section .note.GNU-stack, "", @progbits
