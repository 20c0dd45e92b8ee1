// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/stats.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/abi/vm_ioctls.h"
#include "softkvm/counters.h"
#include "softkvm/translate/engine.h"

namespace vireo::softkvm::abi {

const Capability kStatsCapabilities[] = {
    {KVM_CAP_BINARY_STATS_FD},
};
CAPABILITIES(stats_capabilities, kStatsCapabilities)

namespace {

constexpr uint32_t kNameSize = 48;
constexpr size_t kPage = 4096;
constexpr uint32_t kUnitBoolean = 4u << KVM_STATS_UNIT_SHIFT;  // Linux 6.0; older headers do not name it

constexpr uint32_t kCount = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10;
constexpr uint32_t kTime = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10;
constexpr uint32_t kCycles = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_CYCLES | KVM_STATS_BASE_POW10;
constexpr uint32_t kBytes = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW2;
constexpr uint32_t kNow = KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10;
constexpr uint32_t kBytesNow = KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW2;
constexpr uint32_t kFlagNow = KVM_STATS_TYPE_INSTANT | kUnitBoolean | KVM_STATS_BASE_POW10;

// Names are the kernel's where the meaning is (arch/x86/kvm/x86.c, kvm_vcpu_stats_desc and kvm_vm_stats_desc).
using V = VcpuCounters;
constexpr Statistics::Counter kVcpuCounters[] = {
    {"exits", kCount, 0, offsetof(V, exits)},
    {"io_exits", kCount, 0, offsetof(V, io_exits)},
    {"mmio_exits", kCount, 0, offsetof(V, mmio_exits)},
    {"irq_window_exits", kCount, 0, offsetof(V, irq_window_exits)},
    {"signal_exits", kCount, 0, offsetof(V, signal_exits)},
    {"other_exits", kCount, 0, offsetof(V, other_exits)},
    {"doorbells", kCount, 0, offsetof(V, doorbells)},
    {"halt_exits", kCount, 0, offsetof(V, halt_exits)},
    {"halt_wait_ns", kTime, -9, offsetof(V, halt_wait_ns)},
    {"running", kFlagNow, 0, offsetof(V, running)},
    {"blocking", kFlagNow, 0, offsetof(V, blocking)},
    {"irq_injections", kCount, 0, offsetof(V, irq_injections)},
    {"nmi_injections", kCount, 0, offsetof(V, nmi_injections)},
    {"exceptions", kCount, 0, offsetof(V, exceptions)},
    {"pf_guest", kCount, 0, offsetof(V, pf_guest)},
    {"hypercalls", kCount, 0, offsetof(V, hypercalls)},
    {"blocks_translated", kCount, 0, offsetof(V, blocks_translated)},
    {"insns_translated", kCount, 0, offsetof(V, insns_translated)},
    {"code_bytes_translated", kBytes, 0, offsetof(V, code_bytes_translated)},
    {"blocks_restored", kCount, 0, offsetof(V, blocks_restored)},
    {"lookups", kCount, 0, offsetof(V, lookups)},
    {"call_outs", kCount, 0, offsetof(V, call_outs)},
    {"leaves", kCount, 0, offsetof(V, leaves)},
    {"steps", kCount, 0, offsetof(V, steps)},
    {"code_writes", kCount, 0, offsetof(V, code_writes)},
    {"code_doubts", kCount, 0, offsetof(V, code_doubts)},
    {"code_compares", kCount, 0, offsetof(V, code_compares)},
    {"tlb_misses", kCount, 0, offsetof(V, tlb_misses)},
    {"tlb_fills", kCount, 0, offsetof(V, tlb_fills)},
    {"tlb_flush", kCount, 0, offsetof(V, tlb_flush)},
    {"invlpg", kCount, 0, offsetof(V, invlpg)},
    {"native_runs", kCount, 0, offsetof(V, native.runs)},
    {"native_system_calls", kCount, 0, offsetof(V, native.system_calls)},
    {"native_page_faults", kCount, 0, offsetof(V, native.faults)},
    {"native_pages_mapped", kCount, 0, offsetof(V, native.mapped)},
    {"native_left", kCount, 0, offsetof(V, native.left)},
    {"native_spaces", kCount, 0, offsetof(V, native.spaces)},
    {"native_time_stamps", kCount, 0, offsetof(V, native.time_stamps)},
    {"native_cycles", kCycles, 0, offsetof(V, native.all_ticks)},
    {"native_run_cycles", kCycles, 0, offsetof(V, native.run_ticks)},
};
constexpr Statistics::Counter kVmCounters[] = {
    {"vcpus", kNow, 0, offsetof(VmCounters, vcpus)},
    {"memory_slots", kNow, 0, offsetof(VmCounters, memory_slots)},
    {"remote_tlb_flush", kCount, 0, offsetof(VmCounters, remote_tlb_flush)},
    {"code_cache_size", kBytesNow, 0, offsetof(VmCounters, code_cache_size)},
    {"code_cache_used", kBytesNow, 0, offsetof(VmCounters, code_cache_used)},
    {"code_cache_blocks", kNow, 0, offsetof(VmCounters, code_cache_blocks)},
    {"code_cache_flushes", kCount, 0, offsetof(VmCounters, code_cache_flushes)},
    {"code_pages_invalidated", kCount, 0, offsetof(VmCounters, code_pages_invalidated)},
    {"code_blocks_invalidated", kCount, 0, offsetof(VmCounters, code_blocks_invalidated)},
    {"code_blocks_stored", kNow, 0, offsetof(VmCounters, code_blocks_stored)},
};
// Every counter is told, in the order of the struct.
constexpr bool complete(std::span<const Statistics::Counter> table, size_t end) {
  for (size_t i = 0; i < table.size(); i++)
    if (table[i].at != 8 * i || std::string_view(table[i].name).size() >= kNameSize) return false;
  return end + 8 == 8 * table.size();
}
static_assert(complete(kVcpuCounters, offsetof(V, native.run_ticks)) && complete(kVmCounters, offsetof(VmCounters, code_blocks_stored)));
static_assert(sizeof(VcpuCounters) == kPage && sizeof(VmCounters) == kPage);

}  // namespace

bool Statistics::is_file(int fd) const {
  struct stat info;
  return ::fstat(fd, &info) == 0 && info.st_dev == device_ && info.st_ino == inode_;
}

Statistics::~Statistics() {
  if (fd_ >= 0 && is_file(fd_)) ::close(fd_);
}

int Statistics::create(const std::string& id, std::span<const Counter> table, void* counters) {
  constexpr size_t kDescriptor = sizeof(kvm_stats_desc) + kNameSize;
  uint8_t page[kPage] = {};
  kvm_stats_header header{};
  header.name_size = kNameSize;
  header.num_desc = static_cast<uint32_t>(table.size());
  header.id_offset = sizeof header;
  header.desc_offset = header.id_offset + kNameSize;
  header.data_offset = kPage;
  if (header.desc_offset + kDescriptor * table.size() > kPage) return -E2BIG;
  std::memcpy(page, &header, sizeof header);
  std::snprintf(reinterpret_cast<char*>(page + header.id_offset), kNameSize, "%s", id.c_str());
  for (size_t i = 0; i < table.size(); i++) {
    uint8_t* at = page + header.desc_offset + i * kDescriptor;
    kvm_stats_desc desc{};
    desc.flags = table[i].flags;
    desc.exponent = static_cast<int16_t>(table[i].exponent);
    desc.size = 1;
    desc.offset = static_cast<uint32_t>(table[i].at);
    std::memcpy(at, &desc, sizeof desc);
    std::snprintf(reinterpret_cast<char*>(at + sizeof desc), kNameSize, "%s", table[i].name);
  }
  fd_ = ::memfd_create("kvm-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  struct stat info;
  if (fd_ < 0 || ::fstat(fd_, &info) != 0) return -errno;
  device_ = info.st_dev;
  inode_ = info.st_ino;
  const size_t data = 8 * table.size();
  // What is behind the last counter cannot be read, but it is mapped: the page is there as a whole.
  if (::ftruncate(fd_, static_cast<off_t>(kPage + data)) != 0 || ::pwrite(fd_, page, kPage, 0) != static_cast<ssize_t>(kPage) ||
      ::pwrite(fd_, counters, data, kPage) != static_cast<ssize_t>(data) ||
      ::fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    return -errno;
  if (::mmap(counters, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd_, kPage) == MAP_FAILED) return -errno;
  return 0;
}

int Statistics::open() const {
  // A file position of its own, and no right to write.
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd_);
  int fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -errno;
  if (is_file(fd)) return fd;
  ::close(fd);
  return -EBADF;
}

int create_statistics(VcpuFile& file) {
  return file.statistics.create("kvm-" + std::to_string(::getpid()) + "/vcpu-" + std::to_string(file.vcpu->id), kVcpuCounters, &file.vcpu->engine->counters);
}

int create_statistics(VmFile& vm) { return vm.statistics.create("kvm-" + std::to_string(::getpid()), kVmCounters, vm.vm->counters); }

int get_stats_fd(VcpuFile& file) { return file.statistics.open(); }

int get_stats_fd(VmFile& vm) { return vm.statistics.open(); }

}  // namespace vireo::softkvm::abi
