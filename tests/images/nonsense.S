# SPDX-License-Identifier: Apache-2.0
# A guest that writes and reads nonsense at every I/O port, at every PCI function's registers and all over the
# device part of the address map. `seed` is patched by whoever starts it. Ports that reset or power off the machine
# come last, on purpose: the way there has been seen by then.
        .include "multiboot.inc"
        .macro random                   # eax = next of a linear congruential sequence (Numerical Recipes' constants)
        mov     seed, %eax
        imul    $1664525, %eax, %eax
        add     $1013904223, %eax
        mov     %eax, seed
        rol     $13, %eax               # its low bits alternate
        .endm

_start: mov     $stack_top, %esp
        say     "guest: nonsense starts"

        # Every port but the console's and those that end the run, with 1, 2 and 4 bytes.
        xor     %ebx, %ebx
ports:  cmp     $0x3f8, %ebx
        jb      1f
        cmp     $0x3ff, %ebx
        jbe     skip
1:      cmp     $0x64, %ebx             # keyboard controller: reset line
        je      skip
        cmp     $0x92, %ebx             # system control port A: reset
        je      skip
        cmp     $0xcf8, %ebx            # reset control at 0xcf9
        jb      1f
        cmp     $0xcff, %ebx
        jbe     skip
1:      cmp     $0xb2, %ebx             # system management interrupt
        je      skip
2:      cmp     $0x600, %ebx            # the ACPI block: sleep
        jb      3f
        cmp     $0x67f, %ebx
        jbe     skip
3:      mov     %ebx, %edx
        random
        outb    %al, %dx
        inb     %dx, %al
        random
        outw    %ax, %dx
        inw     %dx, %ax
        random
        outl    %eax, %dx
        inl     %dx, %eax
skip:   inc     %ebx
        cmp     $0x10000, %ebx
        jb      ports
        say     "guest: ports done"

        # Every memory BAR of every function of PCI bus 0: placed, switched on, and its first 16 KiB written over.
        movl    $0xc8000000, window
        mov     $0x80000000, %ebx       # mechanism 1: enable, bus 0, device, function, register 0
funcs:  mov     %ebx, %eax
        call    config_read
        cmp     $0xffff, %ax
        je      next
        lea     0x10(%ebx), %ebp        # the BAR at hand
bars:   mov     %ebp, %eax
        mov     $-1, %ecx
        call    config_write
        mov     %ebp, %eax
        call    config_read
        test    %eax, %eax              # 0: no BAR
        jz      nobar
        test    $1, %eax                # an I/O BAR: the walk over all ports has been there
        jnz     nobar
        mov     %eax, %edi
        mov     %ebp, %eax
        mov     window, %ecx
        call    config_write
        test    $4, %edi                # 64 bits wide: the upper half is the next register
        jz      1f
        add     $4, %ebp
        mov     %ebp, %eax
        xor     %ecx, %ecx
        call    config_write
1:      lea     4(%ebx), %eax
        mov     $0x407, %ecx            # I/O, memory, bus master; INTx off
        call    config_write
        mov     window, %edi
        mov     $0x1000, %ecx
2:      random
        mov     %eax, (%edi)
        mov     (%edi), %edx
        mov     %al, 3(%edi)
        mov     %ax, (%edi)
        add     $4, %edi
        loop    2b
        addl    $0x100000, window
nobar:  add     $4, %ebp
        mov     %ebp, %eax
        and     $0xff, %eax
        cmp     $0x28, %eax
        jb      bars
next:   add     $0x100, %ebx
        cmp     $0x80010000, %ebx
        jb      funcs
        say     "guest: BARs done"

        # The registers of virtio devices without PCI, which lie in one page (the microvm board's; a PC has nothing there).
        mov     $0x8000, %ecx
1:      random
        and     $0xffc, %eax
        lea     0xd0000000(%eax), %edi
        random
        mov     %eax, (%edi)
        mov     (%edi), %edx
        random
        test    $0x70, %al              # now and then what a driver would write: a small number
        jnz     2f
        and     $0xf, %eax
        mov     %eax, (%edi)
2:      mov     %al, 1(%edi)
        loop    1b
        say     "guest: virtio registers done"

        # The device part of the address map: the first KiB of each page of its last 32 MiB, then random places.
        mov     $0xfe000000, %ebx
pages:  cmp     $0xfec00000, %ebx       # the I/O APIC, the local APIC and the window of message interrupts
        je      2f                      # can send this CPU an INIT or NMI: at the end
        mov     %ebx, %eax
        and     $0xfff00000, %eax
        cmp     $0xfee00000, %eax
        je      2f
        mov     %ebx, %edi
        mov     $256, %ecx
1:      random
        mov     %eax, (%edi)
        mov     (%edi), %edx
        mov     %al, 1(%edi)
        mov     %ax, 2(%edi)
        add     $4, %edi
        loop    1b
2:      add     $0x1000, %ebx
        cmp     $0xffc00000, %ebx
        jb      pages
        say     "guest: device pages done"
        mov     $200000, %ecx
2:      random
        or      $0xc0000000, %eax
        mov     %eax, %edi
        cmp     $0xfffffff8, %edi
        ja      3f
        and     $0xfff00000, %eax
        cmp     $0xfee00000, %eax
        je      3f
        cmp     $0xfec00000, %eax
        je      3f
        random
        mov     %eax, (%edi)
        lock xadd %eax, (%edi)
        mov     (%edi), %al
3:      loop    2b
        say     "guest: random places done"

        # Every register of every function of PCI bus 0, by the ports of mechanism 1.
        mov     $0x80000000, %ebx
config: mov     %ebx, %eax
        mov     $0xcf8, %dx
        outl    %eax, %dx
        random
        mov     $0xcfc, %dx
        outl    %eax, %dx
        inl     %dx, %eax
        add     $4, %ebx
        cmp     $0x80010000, %ebx
        jb      config
        # And by the memory-mapped one, bus 0.
        mov     $0xb0000000, %edi
1:      random
        mov     %eax, (%edi)
        mov     (%edi), %edx
        mov     %al, 2(%edi)
        add     $4, %edi
        cmp     $0xb0100000, %edi
        jb      1b
        say     "guest: configuration space done"

        # Now what was spared.
        mov     $64, %ecx
1:      random
        and     $0x3f, %eax
        mov     %eax, 0xfec00000
        random
        mov     %eax, 0xfec00010
        loop    1b
        say     "guest: I/O APIC done"
        mov     $0xfee00000, %edi
        mov     $0x100, %ecx
1:      random
        mov     %eax, (%edi)
        mov     (%edi), %eax
        add     $0x10, %edi
        loop    1b
        say     "guest: local APIC done"
        mov     $0x600, %ebx
last:   mov     %ebx, %edx
        random
        outw    %ax, %dx
        inc     %ebx
        cmp     $0x680, %ebx
        jb      last
        mov     $0xb2, %dx
        random
        outb    %al, %dx
        mov     $0xcf9, %dx
        random
        outb    %al, %dx
        mov     $0x92, %dx
        random
        outb    %al, %dx
        mov     $0x64, %dx
        random
        outb    %al, %dx
        say     "guest: nonsense ends"
4:      hlt
        jmp     4b

config_read:                            # eax = address; returns eax
        mov     $0xcf8, %dx
        outl    %eax, %dx
        mov     $0xcfc, %dx
        inl     %dx, %eax
        ret
config_write:                           # eax = address, ecx = value
        mov     $0xcf8, %dx
        outl    %eax, %dx
        mov     $0xcfc, %dx
        mov     %ecx, %eax
        outl    %eax, %dx
        ret

        .data
window: .long   0
        .globl  seed
        .ascii  "VIREOSEED"             # marks the place for the patch
        .balign 16
seed:   .long   1
        .bss
        .skip   4096
stack_top:
