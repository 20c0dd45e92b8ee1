// SPDX-License-Identifier: Apache-2.0
// A guest without an operating system that polls: it has a virtio disk write new code over the page whose code it has just run, waits for the
// used ring without interrupts or exits, and runs the page at once. Page n of the disk (4 KiB) returns n * 0x9e3779b1 + 7 in EAX.
// The disk is on virtio-mmio, where QEMU's and Vireo's microvm boards have it. Built by gcc -m32; entered by PVH. Prints "POLL ..." lines.
// Spec: virtio 1.3, 2.7 (split queues), 4.2 (MMIO), 5.2 (block); Xen, docs/misc/pvh.pandoc.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

__asm__(".section .note.pvh, \"a\", @note\n"
        ".long 4, 4, 18\n .asciz \"Xen\"\n .long _start\n"  // XEN_ELFNOTE_PHYS32_ENTRY
        ".text\n.globl _start\n_start: mov $stack_top, %esp\n call main\n 1: hlt\n jmp 1b\n"
        ".bss\n .balign 16\n .skip 16384\nstack_top:\n.text");

#ifndef kRounds
#define kRounds 3000
#endif
enum { kPages = 64, kQueue = 8 };
enum { kMagic = 0, kVersion = 4, kDevice = 8, kDriverFeatures = 0x20, kDriverFeaturesSel = 0x24, kQueueSel = 0x30, kQueueNum = 0x38, kQueueReady = 0x44,
       kQueueNotify = 0x50, kStatus = 0x70, kQueueDesc = 0x80, kQueueDriver = 0x90, kQueueDevice = 0xa0 };

static struct { u64 address; u32 length; u16 flags, next; } table[kQueue] __attribute__((aligned(4096)));
static volatile struct { u16 flags, index, ring[kQueue]; } driver __attribute__((aligned(4096)));
static volatile struct { u16 flags, index; struct { u32 id, length; } ring[kQueue]; } device __attribute__((aligned(4096)));
static struct { u32 type, reserved; u64 sector; } request;
static volatile u8 status;
static u8 code[3 * 4096] __attribute__((aligned(4096)));  // the second page is overwritten, the others keep it apart from what polls

static void put(u8 port_byte) {
  u8 ready;
  do __asm__ volatile("inb %w1, %0" : "=a"(ready) : "Nd"(0x3fd)); while (!(ready & 0x20));
  __asm__ volatile("outb %0, %w1" : : "a"(port_byte), "Nd"(0x3f8));
}
static void text(const char* s) {
  while (*s) put((u8)*s++);
}
static void number(u32 value) {
  char digits[11];
  int n = 0;
  do digits[n++] = (char)('0' + value % 10); while (value /= 10);
  while (n) put((u8)digits[--n]);
}
static volatile u32* at(u32 base, u32 offset) { return (volatile u32*)(base + offset); }

static u32 find_disk(void) {
  static const u32 starts[] = {0xfeb00000, 0xd0000000};
  for (int s = 0; s < 2; s++)
    for (u32 i = 0; i < 24; i++) {
      u32 base = starts[s] + i * 0x200;
      if (*at(base, kMagic) == 0x74726976 && *at(base, kVersion) == 2 && *at(base, kDevice) == 2) return base;
    }
  return 0;
}

static void set_up(u32 base) {
  *at(base, kStatus) = 0;
  *at(base, kStatus) = 1 | 2;
  *at(base, kDriverFeaturesSel) = 0;
  *at(base, kDriverFeatures) = 0;
  *at(base, kDriverFeaturesSel) = 1;
  *at(base, kDriverFeatures) = 1;  // VIRTIO_F_VERSION_1
  *at(base, kStatus) = 1 | 2 | 8;
  *at(base, kQueueSel) = 0;
  *at(base, kQueueNum) = kQueue;
  *at(base, kQueueDesc) = (u32)table, *at(base, kQueueDesc + 4) = 0;
  *at(base, kQueueDriver) = (u32)&driver, *at(base, kQueueDriver + 4) = 0;
  *at(base, kQueueDevice) = (u32)&device, *at(base, kQueueDevice + 4) = 0;
  *at(base, kQueueReady) = 1;
  *at(base, kStatus) = 1 | 2 | 8 | 4;
  table[0].address = (u32)&request, table[0].length = 16, table[0].flags = 1, table[0].next = 1;
  table[1].address = (u32)(code + 4096), table[1].length = 4096, table[1].flags = 1 | 2, table[1].next = 2;
  table[2].address = (u32)&status, table[2].length = 1, table[2].flags = 2;
  driver.flags = 1;  // no interrupts
}

static void read_page(u32 base, u32 page) {
  u16 before = device.index;
  request.sector = page * 8;
  status = 0xff;
  driver.ring[driver.index % kQueue] = 0;
  __asm__ volatile("mfence" ::: "memory");
  driver.index++;
  __asm__ volatile("mfence" ::: "memory");
  *at(base, kQueueNotify) = 0;
  while (device.index == before) __asm__ volatile("" ::: "memory");
}

void main(void) {
  u32 base = find_disk(), seed = 1, old = 0, wrong = 0;
  if (!base) {
    text("POLL no disk\n");
    return;
  }
  set_up(base);
  for (u32 round = 0; round < kRounds; round++) {
    seed = seed * 1664525 + 1013904223;
    u32 page = (seed >> 16) % kPages;
    read_page(base, page);
    if (status) {
      text("POLL request failed\n");
      return;
    }
    u32 want = page * 0x9e3779b1u + 7;
    for (int again = 0; again < 3; again++) {
      u32 got = ((u32(*)(void))(code + 4096))();
      if (got == want) continue;
      wrong++;
      old += round > 0 && again == 0;
    }
  }
  text("POLL rounds ");
  number(kRounds);
  text(" wrong ");
  number(wrong);
  text("\n");
}
