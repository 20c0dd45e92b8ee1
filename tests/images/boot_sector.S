// SPDX-License-Identifier: Apache-2.0
// A disk's first sector and 15 more behind it: a program for a bare PC, booted by its BIOS. It tries unreal mode, the A20 gates (port 0x92 and
// the keyboard controller), VGA text (memory at 0xb8000, the cursor by INT 10h and by the CRT controller, all 256 characters by INT 10h) and the PIT
// (counter 0 in modes 2 and 3 with IRQ 0, latch, read-back; counter 2 with port 0x61), writes a line about each to the screen by INT 10h and to
// COM1, and at the end VERDICT GOOD or VERDICT BAD. The screen is left for who looks at it from outside.
// Built by: as --32; ld -m elf_i386 -Ttext 0x7c00 --oformat binary.
// Specs: Intel SDM vol 3, 3.4.3 and 9.9 (segment caches); Intel ICH9 data sheet, 13.7.2; IBM PS/2 technical reference, 8042 commands d0, d1; IBM VGA
// technical reference; Intel 8254 data sheet.

        .code16
        .globl _start
_start:
        ljmp    $0, $1f
1:      xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        cld
        // The rest of the program, 15 sectors, by INT 13h with an address packet.
        movb    $0x42, %ah
        movw    $packet, %si
        int     $0x13
        jc      2f
        jmp     main
2:      movw    $0x0e21, %ax            // '!'
        xorw    %bx, %bx
        int     $0x10
3:      hlt
        jmp     3b
packet: .byte   16, 0
        .word   15, 0x7e00, 0
        .quad   1
        .org    510
        .word   0xaa55

// ---- what is common

bad:    .byte   0
ticks:  .word   0
old8:   .long   0

// %si: text with a zero behind it, to the screen and to COM1.
say:    pushaw
1:      lodsb
        testb   %al, %al
        jz      2f
        call    put
        jmp     1b
2:      popaw
        ret

put:    pushaw
        movb    %al, %cl
        movb    $0x0e, %ah
        movw    $0x0007, %bx
        int     $0x10
        movw    $0x3fd, %dx
3:      inb     %dx, %al
        testb   $0x20, %al
        jz      3b
        movb    %cl, %al
        movw    $0x3f8, %dx
        outb    %al, %dx
        popaw
        ret

// Counter 0 to 100 Hz in the mode of the control word in al, no ticks yet, interrupts on.
rate_100:
        outb    %al, $0x43
        movb    $11932 & 255, %al
        outb    %al, $0x40
        movb    $11932 >> 8, %al
        outb    %al, $0x40
        movw    $0, ticks
        sti
        ret

// %si: a part's name; carry: it is wrong.
verdict:
        pushw   %si
        pushfw
        call    say
        popfw
        movw    $good_text, %si
        jnc     1f
        movb    $1, bad
        movw    $bad_text, %si
1:      call    say
        popw    %si
        ret

// Waits until the keyboard controller takes a byte, and the one that waits is gone.
kbc:    inb     $0x64, %al
        testb   $1, %al
        jz      1f
        inb     $0x60, %al
1:      testb   $2, %al
        jnz     kbc
        ret

// %ah: the keyboard controller's output port.
kbc_port:
        call    kbc
        movb    $0xd1, %al
        outb    %al, $0x64
2:      inb     $0x64, %al
        testb   $2, %al
        jnz     2b
        movb    %ah, %al
        outb    %al, $0x60
3:      inb     $0x64, %al
        testb   $2, %al
        jnz     3b
        ret

fast_off:
        inb     $0x92, %al
        andb    $0xfc, %al
        outb    %al, $0x92
        ret
fast_on:
        inb     $0x92, %al
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        ret

// Carry: ffff:0510 is not 0000:0500 (line 20 passes). Writes both ways.
line20: pushw   %fs
        movw    $0xffff, %ax
        movw    %ax, %fs
        movw    $0x1234, 0x500
        movw    $0x5678, %fs:0x510
        cmpw    $0x1234, 0x500
        je      1f                      // two places
        cmpw    $0x5678, 0x500
        jne     3f
        movw    $0x9abc, 0x500
        cmpw    $0x9abc, %fs:0x510
        jne     3f
        popw    %fs
        clc
        ret
1:      cmpw    $0x5678, %fs:0x510
        jne     3f
        popw    %fs
        stc
        ret
3:      movb    $1, bad                 // neither one nor the other
        popw    %fs
        clc
        ret

// ---- the parts

main:   // COM1: 115200 8N1 without interrupts.
        movw    $0x3f9, %dx
        xorb    %al, %al
        outb    %al, %dx
        movw    $0x0003, %ax            // 80x25 text
        int     $0x10
        movw    $hello, %si
        call    say

        // Address line 20, by each gate.
        movw    $name_a20, %si
        call    line20
        jnc     1f                      // a BIOS leaves it on
        movb    $0xdd, %ah
        call    kbc_port
        call    fast_off
        call    line20
        jc      1f
        call    fast_on
        call    line20
        jnc     1f
        call    fast_off
        call    line20
        jc      1f
        movb    $0xdf, %ah
        call    kbc_port
        call    line20
        jnc     1f
        // Code through the wrapped addresses: the new bytes run, whichever way they were written.
        movb    $0xdd, %ah
        call    kbc_port
        movw    $0xc340, 0x600          // inc %ax; ret
        pushw   %fs
        movw    $0xffff, %ax
        movw    %ax, %fs
        xorw    %ax, %ax
        movw    $0x600, %bx
        call    *%bx
        movb    $0x48, %fs:0x610        // dec %ax
        call    *%bx
        call    *%bx
        popw    %fs
        cmpw    $-1, %ax
        pushfw
        movb    $0xdf, %ah
        call    kbc_port
        call    fast_on
        popfw
        jne     1f
        clc
        jmp     2f
1:      movb    $0xdf, %ah
        call    kbc_port
        call    fast_on
        stc
2:      call    verdict

        // Unreal mode: a limit of 4 GiB stays with %fs in real mode, and is used beyond 1 MiB; %gs keeps 64 KiB, and faults.
        movw    $name_unreal, %si
        cli
        lgdt    gdtr
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        jmp     3f
3:      movw    $8, %bx
        movw    %bx, %fs
        movw    $16, %bx
        movw    %bx, %gs
        andb    $0xfe, %al
        movl    %eax, %cr0
        jmp     4f
4:      xorw    %bx, %bx
        movw    %bx, %gs
        // Its base is that of the descriptor until it is loaded.
        movl    $0x00234567, %edi
        movl    $0xcafef00d, %eax
        movl    %eax, %fs:(%edi)
        cmpl    %fs:(%edi), %eax
        jne     5f
        movl    $0xfec00000, %edi       // the IOAPIC: its register 1 has the version in its low byte
        movl    $1, %fs:(%edi)
        movl    %fs:0x10(%edi), %eax
        cmpb    $0xff, %al
        je      5f
        testb   %al, %al
        jz      5f
        // A limit of 64 KiB: INT 13 for a word at 0xffff and beyond.
        movl    13*4, %ebp
        movw    $fault, 13*4
        movw    $0, 13*4+2
        movw    $0, faults
        movl    $0x10000, %edi
        movw    $6f, fault_to
        movb    %gs:(%edi), %al
6:      movl    %ebp, 13*4
        cmpw    $1, faults
        jne     5f
        sti
        clc
        jmp     7f
5:      sti
        stc
7:      call    verdict

        // The screen's memory: what INT 10h wrote is there, what is written there INT 10h reads.
        movw    $name_text, %si
        pushw   %es
        movw    $0xb800, %ax
        movw    %ax, %es
        cmpw    $0x0700+'V', %es:0      // the first letter of "hello"
        jne     1f
        movw    $0x4e00+'Z', %es:(24*80+79)*2
        movb    $2, %ah                 // cursor to row 24, column 79
        xorb    %bh, %bh
        movw    $24*256+79, %dx
        int     $0x10
        // The CRT controller has it: register 14 and 15.
        movw    $0x3d4, %dx
        movb    $14, %al
        outb    %al, %dx
        incw    %dx
        inb     %dx, %al
        movb    %al, %ah
        decw    %dx
        movb    $15, %al
        outb    %al, %dx
        incw    %dx
        inb     %dx, %al
        cmpw    $24*80+79, %ax
        jne     1f
        movb    $8, %ah
        xorb    %bh, %bh
        int     $0x10
        cmpw    $0x4e00+'Z', %ax
        jne     1f
        // All 256 characters, each with its own colours, in rows 16 to 19, 64 a row.
        movw    $16*160, %di
        xorw    %cx, %cx
8:      movb    %cl, %al
        movb    %cl, %ah
        andb    $0x7f, %ah
        movw    %ax, %es:(%di)
        addw    $2, %di
        incw    %cx
        testb   $63, %cl
        jnz     9f
        addw    $32, %di
9:      cmpw    $256, %cx
        jne     8b
        // Cursor by the CRT controller: row 10, column 5; INT 10h, function 3, tells its own, which is not that.
        movw    $0x3d4, %dx
        movw    $(10*80+5) / 256 * 256 + 14, %ax
        outw    %ax, %dx
        movw    $(10*80+5) % 256 * 256 + 15, %ax
        outw    %ax, %dx
        movb    $3, %ah
        xorb    %bh, %bh
        int     $0x10
        cmpw    $24*256+79, %dx
        jne     1f
        popw    %es
        movb    $2, %ah                 // where the next line of text belongs
        xorb    %bh, %bh
        movw    $3*256, %dx
        int     $0x10
        clc
        jmp     2f
1:      popw    %es
        stc
2:      call    verdict

        // Retrace: both edges are seen by input status 1.
        movw    $name_retrace, %si
        movw    $0x3da, %dx
        movl    $2000000, %ecx
3:      inb     %dx, %al
        testb   $8, %al
        jnz     4f
        decl    %ecx
        jnz     3b
        jmp     6f
4:      inb     %dx, %al
        testb   $8, %al
        jz      5f
        decl    %ecx
        jnz     4b
        jmp     6f
5:      clc
        jmp     7f
6:      stc
7:      call    verdict

        // Counter 0, mode 2, 11932: 100 Hz. IRQ 0 comes 20 times while the clock's seconds go by less than twice.
        movw    $name_rate, %si
        movl    8*4, %eax
        movl    %eax, old8
        cli
        movw    $irq0, 8*4
        movw    $0, 8*4+2
        movb    $0x34, %al
        call    rate_100
1:      hlt
        cmpw    $20, ticks
        jb      1b
        // Read-back of status and count: counter 0, mode 2, two bytes, not BCD; the count at most what was set.
        movb    $0xc2, %al
        outb    %al, $0x43
        inb     $0x40, %al
        movb    %al, %bl
        inb     $0x40, %al
        movb    %al, %ah
        inb     $0x40, %al
        xchgb   %al, %ah
        andb    $0x7f, %bl              // not the output's level
        cmpb    $0x34, %bl
        jne     8f
        cmpw    $11932, %ax
        ja      8f
        // A latched count does not move; a later one has.
        movb    $0, %al
        outb    %al, $0x43
        movl    $200000, %ecx
2:      decl    %ecx
        jnz     2b
        inb     $0x40, %al
        movb    %al, %bl
        inb     $0x40, %al
        movb    %al, %bh
        movw    $100, %cx
3:      movb    $0, %al
        outb    %al, $0x43
        inb     $0x40, %al
        movb    %al, %dl
        inb     $0x40, %al
        movb    %al, %dh
        cmpw    %bx, %dx
        jne     4f
        loop    3b
        jmp     8f
4:      // Mode 3 counts by two: all counts of an even divisor are even.
        cli
        movb    $0x36, %al
        call    rate_100
        movw    $50, %cx
5:      movb    $0, %al
        outb    %al, $0x43
        inb     $0x40, %al
        testb   $1, %al
        jnz     8f
        inb     $0x40, %al
        loop    5b
6:      hlt
        cmpw    $10, ticks
        jb      6b
        clc
        jmp     9f
8:      stc
9:      pushfw
        cli                             // 18.2 Hz and the BIOS's handler again
        movb    $0x36, %al
        outb    %al, $0x43
        xorb    %al, %al
        outb    %al, $0x40
        outb    %al, $0x40
        movl    old8, %eax
        movl    %eax, 8*4
        sti
        popfw
        call    verdict

        // Counter 2, mode 0, gated by port 0x61: its output, bit 5, comes after the count and not before; without the gate it stands.
        movw    $name_gate, %si
        inb     $0x61, %al
        andb    $0xfc, %al
        outb    %al, $0x61
        movb    $0xb0, %al
        outb    %al, $0x43
        movb    $0x00, %al
        outb    %al, $0x42
        movb    $0x80, %al
        outb    %al, $0x42
        call    count2
        movw    %ax, %bx
        movl    $100000, %ecx
1:      decl    %ecx
        jnz     1b
        call    count2
        cmpw    %ax, %bx
        jne     5f                      // it counts without its gate
        inb     $0x61, %al
        testb   $0x20, %al
        jnz     5f
        orb     $1, %al
        outb    %al, $0x61
        movw    $60, %cx                // in ticks of 18.2 Hz that is long
        movw    0x46c, %dx
2:      inb     $0x61, %al
        testb   $0x20, %al
        jnz     4f
        cmpw    0x46c, %dx
        je      2b
        movw    0x46c, %dx
        loop    2b
        jmp     5f
4:      clc
        jmp     6f
5:      stc
6:      call    verdict

        movw    $verdict_good, %si
        cmpb    $0, bad
        je      7f
        movw    $verdict_bad, %si
7:      call    say
8:      hlt
        jmp     8b

count2: movb    $0x80, %al
        outb    %al, $0x43
        inb     $0x42, %al
        movb    %al, %ah
        inb     $0x42, %al
        xchgb   %al, %ah
        ret

irq0:   pushw   %ax
        incw    %cs:ticks
        movb    $0x20, %al
        outb    %al, $0x20
        popw    %ax
        iretw

// #GP in real mode: returns to fault_to.
faults: .word   0
fault_to: .word 0
fault:  incw    faults
        pushw   %bp
        movw    %sp, %bp
        pushw   fault_to
        popw    2(%bp)
        popw    %bp
        iretw

gdtr:   .word   3*8 - 1
        .long   gdt
gdt:    .quad   0
        .quad   0x00cf92000000ffff      // data, 4 GiB
        .quad   0x000092000000ffff      // data, 64 KiB

hello:        .asciz "Vireo's boot sector\r\n"
name_a20:     .asciz "A20 "
name_unreal:  .asciz "unreal mode "
name_text:    .asciz "text "
name_retrace: .asciz "retrace "
name_rate:    .asciz "PIT "
name_gate:    .asciz "PIT counter 2 "
good_text:    .asciz "good\r\n"
bad_text:     .asciz "BAD\r\n"
verdict_good: .asciz "VERDICT GOOD\r\n"
verdict_bad:  .asciz "VERDICT BAD\r\n"
        .org    16*512
