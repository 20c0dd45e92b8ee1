// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/stats.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/abi/vm_ioctls.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/translate/engine.h"

namespace vireo::softkvm::abi {

const Capability kStatsCapabilities[] = {
    {KVM_CAP_BINARY_STATS_FD},
};
CAPABILITIES(stats_capabilities, kStatsCapabilities)

namespace {

constexpr uint32_t kNameSize = 48;
constexpr uint32_t kCount = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10;
constexpr uint32_t kNow = KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10;

// In the order of update_statistics().
constexpr Statistics::Counter kVcpuCounters[] = {
    {"exits", kCount},           {"io_exits", kCount},    {"mmio_exits", kCount},  {"halt_exits", kCount}, {"signal_exits", kCount},
    {"blocks_translated", kCount}, {"tlb_misses", kCount}, {"tlb_flush", kCount}, {"call_outs", kCount},  {"guest_mode", kNow},
};
constexpr Statistics::Counter kVmCounters[] = {{"vcpus", kNow}, {"memory_slots", kNow}};

}  // namespace

Statistics::~Statistics() {
  if (mapping_ != nullptr) ::munmap(mapping_, size_);
  if (fd_ >= 0) ::close(fd_);
}

int Statistics::open(const std::string& id, std::span<const Counter> counters) {
  if (mapping_ == nullptr) {
    const size_t descriptor = sizeof(kvm_stats_desc) + kNameSize;
    kvm_stats_header header{};
    header.name_size = kNameSize;
    header.num_desc = static_cast<uint32_t>(counters.size());
    header.id_offset = sizeof header;
    header.desc_offset = header.id_offset + kNameSize;
    header.data_offset = static_cast<uint32_t>(header.desc_offset + descriptor * counters.size());
    size_ = header.data_offset + 8 * counters.size();
    int fd = ::memfd_create("kvm-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    void* made = MAP_FAILED;
    if (::ftruncate(fd, static_cast<off_t>(size_)) == 0 && ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0)
      made = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (made == MAP_FAILED) {
      ::close(fd);
      return -ENOMEM;
    }
    auto* bytes = static_cast<uint8_t*>(made);
    std::memcpy(bytes, &header, sizeof header);
    std::snprintf(reinterpret_cast<char*>(bytes + header.id_offset), kNameSize, "%s", id.c_str());
    for (size_t i = 0; i < counters.size(); i++) {
      uint8_t* at = bytes + header.desc_offset + i * descriptor;
      kvm_stats_desc desc{};
      desc.flags = counters[i].flags;
      desc.size = 1;
      desc.offset = static_cast<uint32_t>(8 * i);
      std::memcpy(at, &desc, sizeof desc);
      std::snprintf(reinterpret_cast<char*>(at + sizeof desc), kNameSize, "%s", counters[i].name);
    }
    fd_ = fd;
    mapping_ = made;
    values_ = reinterpret_cast<uint64_t*>(bytes + header.data_offset);
  }
  // A file position of its own, and no right to write.
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd_);
  int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  return fd >= 0 ? fd : -errno;
}

void update_statistics(VcpuFile& file) {
  if (!file.statistics.wanted()) return;
  const Engine& engine = *file.vcpu->engine;
  const uint64_t values[] = {file.exits.all, file.exits.io, file.exits.mmio, file.exits.halt, file.exits.signal, engine.count_translated,
                             engine.count_miss, engine.count_flush, engine.count_callout, file.exits.running};
  static_assert(std::size(values) == std::size(kVcpuCounters));
  for (unsigned i = 0; i < std::size(values); i++) file.statistics.set(i, values[i]);
}

int get_stats_fd(VcpuFile& file) {
  int fd = file.statistics.open("kvm-" + std::to_string(::getpid()) + "/vcpu-" + std::to_string(file.vcpu->id), kVcpuCounters);
  if (fd >= 0) update_statistics(file);
  return fd;
}

int get_stats_fd(VmFile& vm) {
  std::lock_guard lock(vm.mutex);
  int fd = vm.statistics.open("kvm-" + std::to_string(::getpid()), kVmCounters);
  if (fd >= 0) {
    vm.statistics.set(0, vm.vcpus.size());
    vm.statistics.set(1, vm.vm->slots->table().count);
  }
  return fd;
}

}  // namespace vireo::softkvm::abi
