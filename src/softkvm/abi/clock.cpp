// SPDX-License-Identifier: Apache-2.0
// KVM_GET/SET_TSC_KHZ, the TSC offset attribute, KVM_GET/SET_CLOCK, KVM_KVMCLOCK_CTRL. The guest reads the host's TSC, scaled where it is
// given another rate, plus an offset. Spec: Intel SDM vol 3, 17.17; vol 2, CPUID leaf 15H; Documentation/virt/kvm/x86/timekeeping.rst.
#include "softkvm/abi/clock.h"

#include <cpuid.h>
#include <unistd.h>
#include <x86intrin.h>

#include <cerrno>
#include <ctime>
#include <mutex>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_file.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/cpu/system.h"
#include "softkvm/irqchip/kvmclock.h"

namespace vireo::softkvm {

// KVM_SET_MSRS of IA32_TSC. A restored guest gets its vCPUs' counters one after the other, some time apart, but means them to be equal:
// a value that is about where another vCPU's was put by user space gets that one's offset; so does 0, what a new vCPU starts with. The
// counters as creation left them are no one's wish: a state restored within a second of the VM's making must not be taken for them.
void synchronize_tsc(VcpuState& vcpu, uint64_t value) {
  Vm::TscWrites& last = vcpu.vm->tsc_writes;
  const uint64_t now = scale_tsc(vcpu, __rdtsc());
  const uint64_t second = vcpu.tsc_khz * 1000ull;
  std::lock_guard lock(last.mutex);
  const uint64_t expected = now + last.offset;
  const bool same_rate = last.ratio == vcpu.tsc_ratio;
  const bool near = last.by_user && value - (expected - second) < 2 * second;
  if (last.valid && same_rate && (value == 0 || near)) {
    vcpu.msr.tsc_offset = last.offset;
    return;
  }
  last.valid = true;
  last.ratio = vcpu.tsc_ratio;
  if (value != 0) last.by_user = true;
  last.offset = vcpu.msr.tsc_offset = value - now;
}

namespace abi {
namespace {

constexpr uint32_t kSystemTimeMsr = 0x4b564d01;

uint64_t clock_ns(clockid_t clock) {
  timespec time;
  ::clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

// The CPU's word for it, if it gives one.
uint32_t enumerated_tsc_khz() {
  unsigned eax, ebx, ecx, edx;
  __cpuid(0, eax, ebx, ecx, edx);
  const unsigned highest = eax;
  if (highest >= 0x15) {
    __cpuid_count(0x15, 0, eax, ebx, ecx, edx);
    if (eax != 0 && ebx != 0 && ecx != 0) return static_cast<uint32_t>(static_cast<uint64_t>(ecx) * ebx / eax / 1000);
  }
  __cpuid(1, eax, ebx, ecx, edx);
  if (ecx >> 31) {
    __cpuid(0x40000000, eax, ebx, ecx, edx);
    if (eax >= 0x40000010) {
      __cpuid(0x40000010, eax, ebx, ecx, edx);
      return eax;
    }
  }
  return 0;
}

// One reading of both clocks, as close together as can be had: within some 10 ns.
struct Sample {
  uint64_t tsc = 0, ns = 0;
};
Sample sample() {
  Sample out;
  uint64_t best = ~0ull;
  for (int i = 0; i < 40; i++) {
    uint64_t before = __rdtsc(), time = clock_ns(CLOCK_MONOTONIC_RAW), after = __rdtsc();
    if (after - before >= best) continue;
    best = after - before;
    out = {before + best / 2, time};
  }
  return out;
}

const Sample first = sample();  // as the program starts: what it does until the rate is wanted costs no waiting

// To ten parts in a million; NTP corrects 500.
uint32_t measured_tsc_khz() {
  constexpr uint64_t kLeast = 2'000'000;  // ns: the readings' 20 ns are a part in 100,000 of that
  Sample second;
  while ((second = sample()).ns - first.ns < kLeast) {
    const timespec pause{0, static_cast<long>(kLeast - (second.ns - first.ns))};
    ::nanosleep(&pause, nullptr);
  }
  // The counter may have run for days since.
  return static_cast<uint32_t>(static_cast<unsigned __int128>(second.tsc - first.tsc) * 1000000 / (second.ns - first.ns));
}

// Within what an NTP daemon corrects, 250 parts in a million, as the kernel has it.
constexpr unsigned kRatioFraction = 32;
constexpr uint64_t kMaxTscKhz = 0x7fffffff;

bool possible_rate(uint64_t khz) { return khz != 0 && khz <= kMaxTscKhz; }

bool host_rate(uint64_t khz) {
  const uint64_t host = host_tsc_khz(), slack = host * 250 / 1000000;
  return khz >= host - slack && khz <= host + slack;
}

}  // namespace

namespace {

// The host has to tell how long threads wait.
int steal_time_known(const VmFile*) { return ::access("/proc/thread-self/schedstat", R_OK) == 0; }

}  // namespace

const Capability kClockCapabilities[] = {
    {KVM_CAP_GET_TSC_KHZ},
    {KVM_CAP_TSC_CONTROL},
    {KVM_CAP_VM_TSC_CONTROL},
    {KVM_CAP_VCPU_ATTRIBUTES},
    {KVM_CAP_CLOCKSOURCE},
    {KVM_CAP_KVMCLOCK_CTRL},
    {KVM_CAP_STEAL_TIME, 0, steal_time_known},
    {KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | KVM_CLOCK_TSC_STABLE},
};
CAPABILITIES(clock_capabilities, kClockCapabilities)

uint32_t host_tsc_khz() {
  static const uint32_t khz = [] {
    uint32_t known = enumerated_tsc_khz();
    return known != 0 ? known : measured_tsc_khz();
  }();
  return khz;
}

void run_tsc_at(Vcpu& vcpu, uint32_t khz) {
  vcpu.tsc_khz = khz;
  vcpu.tsc_ratio = host_rate(khz) ? 0 : (static_cast<uint64_t>(khz) << kRatioFraction) / host_tsc_khz();
}

int set_tsc_khz(VcpuFile& file, uintptr_t khz) {
  if (khz == 0) khz = host_tsc_khz();
  if (!possible_rate(khz)) return -EINVAL;
  run_tsc_at(*file.vcpu, static_cast<uint32_t>(khz));
  if (file.has_lapic()) file.vcpu->lapic->set_tsc_khz(static_cast<uint32_t>(khz));
  write_paravirtual_msr(*file.vcpu, kSystemTimeMsr, file.vcpu->msr.system_time);
  return 0;
}

int get_tsc_khz(VcpuFile& file) { return static_cast<int>(file.vcpu->tsc_khz); }

int set_vm_tsc_khz(VmFile& vm, uintptr_t khz) {
  if (khz == 0) khz = host_tsc_khz();
  if (!possible_rate(khz)) return -EINVAL;
  std::lock_guard lock(vm.mutex);
  vm.tsc_khz = static_cast<uint32_t>(khz);
  return 0;
}

int get_vm_tsc_khz(VmFile& vm) {
  std::lock_guard lock(vm.mutex);
  return static_cast<int>(vm.tsc_khz);
}

void start_clock(Vm& vm) {
  std::lock_guard lock(vm.clock_base.mutex);
  vm.clock_base.host_tsc = __rdtsc();
}

int get_clock(VmFile& vm, uintptr_t argument) {
  kvm_clock_data data{};
  data.flags = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | KVM_CLOCK_TSC_STABLE;
  data.host_tsc = __rdtsc();
  data.realtime = clock_ns(CLOCK_REALTIME);
  std::lock_guard lock(vm.vm->clock_base.mutex);
  // The same arithmetic as the guest's.
  const TimeScale scale = time_scale(1'000'000'000, host_tsc_khz() * 1000ull);
  data.clock = vm.vm->clock_base.ns + apply(scale, data.host_tsc - vm.vm->clock_base.host_tsc);
  return copy_out(argument, data) ? 0 : -EFAULT;
}

int set_clock(VmFile& vm, uintptr_t argument) {
  kvm_clock_data data;
  if (!copy_in(data, argument)) return -EFAULT;
  // The kernel takes the flags that KVM_GET_CLOCK gives, and minds one of them.
  if (data.flags & ~static_cast<uint32_t>(KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | KVM_CLOCK_TSC_STABLE)) return -EINVAL;
  uint64_t clock = data.clock;
  if (data.flags & KVM_CLOCK_REALTIME) {
    uint64_t now = clock_ns(CLOCK_REALTIME);
    if (now > data.realtime) clock += now - data.realtime;
  }
  {
    std::lock_guard lock(vm.vm->clock_base.mutex);
    vm.vm->clock_base.host_tsc = __rdtsc();
    vm.vm->clock_base.ns = clock;
  }
  std::lock_guard lock(vm.mutex);
  for (const auto& vcpu : vm.vcpus) write_paravirtual_msr(*vcpu->vcpu, kSystemTimeMsr, vcpu->vcpu->msr.system_time);
  return 0;
}

int kvmclock_ctrl(VcpuFile& file) {
  if (!(file.vcpu->msr.system_time & 1)) return -EINVAL;
  file.vcpu->guest_stopped = true;
  write_paravirtual_msr(*file.vcpu, kSystemTimeMsr, file.vcpu->msr.system_time);  // the page is written anew
  return 0;
}

namespace {

bool tsc_offset_attribute(const kvm_device_attr& attribute) {
  return attribute.group == KVM_VCPU_TSC_CTRL && attribute.attr == KVM_VCPU_TSC_OFFSET;
}

}  // namespace

int has_vcpu_attribute(VcpuFile&, uintptr_t argument) {
  kvm_device_attr attribute;
  if (!copy_in(attribute, argument)) return -EFAULT;
  return tsc_offset_attribute(attribute) ? 0 : -ENXIO;
}

int get_vcpu_attribute(VcpuFile& file, uintptr_t argument) {
  kvm_device_attr attribute;
  if (!copy_in(attribute, argument)) return -EFAULT;
  if (!tsc_offset_attribute(attribute)) return -ENXIO;
  return copy_out(attribute.addr, file.vcpu->msr.tsc_offset) ? 0 : -EFAULT;
}

int set_vcpu_attribute(VcpuFile& file, uintptr_t argument) {
  kvm_device_attr attribute;
  if (!copy_in(attribute, argument)) return -EFAULT;
  if (!tsc_offset_attribute(attribute)) return -ENXIO;
  uint64_t offset;
  if (!copy_in(offset, attribute.addr)) return -EFAULT;
  file.vcpu->msr.tsc_offset = offset;
  tsc_moved(*file.vcpu);
  return 0;
}

}  // namespace abi
}  // namespace vireo::softkvm
