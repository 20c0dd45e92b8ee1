// SPDX-License-Identifier: Apache-2.0
// What leaves a guest for its hypervisor, as a root program of the guest can reach it: CPUID; an MSR through /dev/cpu/0/msr (a system
// call and the kernel's RDMSR); a UART's scratch register by IN (the port goes to a device model); a virtio device's status by a load
// from its PCI BAR (memory that is a device). Port and MMIO are not tried outside a guest.
#include <fcntl.h>
#include <glob.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>

#include "bench.h"

enum { kScratch = 0x3f8 + 7, kCommonConfig = 1, kVendorCapability = 9, kDeviceStatus = 20 };
static int msr_file = -1;
static volatile uint8_t *device_status;

static int guest(void) { return getenv("BENCH_GUEST") == 0; }
static uint64_t cpuid(uint64_t n) {
  uint32_t a, b, c, d, sum = 0;
  while (n--) {
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    sum |= a == 0;
  }
  return sum;
}
static int open_msr(void) { return guest() || (msr_file = open("/dev/cpu/0/msr", O_RDONLY)) < 0; }
static uint64_t msr(uint64_t n) {
  uint64_t value = 0, good = 0;
  while (n--) good += pread(msr_file, &value, 8, 0x277) == 8;  // IA32_PAT
  return good;
}
static int open_port(void) { return guest() || ioperm(kScratch, 1, 1); }
static uint64_t port(uint64_t n) {
  outb(0x5a, kScratch);
  uint64_t sum = 0;
  while (n--) sum += inb(kScratch) == 0x5a;
  return sum;
}
// Spec: virtio 1.3, 4.1.4 (capability layout) and 4.1.4.3 (device_status at offset 20).
static int open_mmio(void) {
  glob_t found;
  if (guest() || glob("/sys/bus/pci/devices/*/config", 0, 0, &found)) return 1;
  for (size_t i = 0; i < found.gl_pathc; i++) {
    uint8_t config[256];
    char path[256];
    int fd = open(found.gl_pathv[i], O_RDONLY);
    ssize_t size = pread(fd, config, sizeof config, 0);
    close(fd);
    if (size != sizeof config || config[0] != 0xf4 || config[1] != 0x1a) continue;
    for (unsigned at = config[0x34] & 0xfc, left = 48; at && at < 240 && left; at = config[at + 1] & 0xfc, left--) {
      if (config[at] != kVendorCapability || config[at + 3] != kCommonConfig || config[at + 4] > 5) continue;
      uint32_t offset;
      memcpy(&offset, config + at + 8, 4);
      snprintf(path, sizeof path, "%.*s/resource%u", (int)strlen(found.gl_pathv[i]) - 7, found.gl_pathv[i], config[at + 4]);
      int bar = open(path, O_RDWR);
      char *page = bar < 0 ? MAP_FAILED : mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, bar, offset & ~4095u);
      if (page == MAP_FAILED) continue;
      device_status = (uint8_t *)page + (offset & 4095) + kDeviceStatus;
      return 0;
    }
  }
  return 1;
}
static uint64_t mmio(uint64_t n) {
  uint64_t sum = 0;
  while (n--) sum += (*device_status & 4) != 0;  // DRIVER_OK
  return sum;
}

const struct row exit_rows[] = {{"cpuid", cpuid, 1, 0}, {"msr", msr, 1, open_msr}, {"port", port, 1, open_port}, {"mmio", mmio, 1, open_mmio}, {0}};
