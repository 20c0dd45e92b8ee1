// SPDX-License-Identifier: Apache-2.0
#include "machine/system_management.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "machine/machine.h"

namespace vireo {
namespace {

constexpr uint64_t kVideo = 0xa0000, kVideoEnd = 0xc0000, kBiosEnd = 0x100000;
constexpr unsigned kTseg = 0, kCompatible = 1;  // windows of the memory that no device sees
constexpr char kSupported[] = "etc/smi/supported-features", kRequested[] = "etc/smi/requested-features", kFeaturesOk[] = "etc/smi/features-ok";
constexpr uint64_t kBroadcast = 1;  // of the features: a command interrupts all processors

std::vector<std::byte> little(uint64_t value, size_t size) {
  std::vector<std::byte> bytes(size);
  memcpy(bytes.data(), &value, size);
  return bytes;
}

}  // namespace

Result<> SystemManagement::check(const MachineConfig& config, const GuestMemory& memory, const kvm::Vm& vm) {
  constexpr uint64_t kMiB = 1 << 20;   // in which firmware and chipset count
  constexpr unsigned kMostCpus = 255;  // more have no APIC ID that an interrupt message names by itself
  const uint64_t low_size = memory.regions()[0].size;
  if (low_size < 4 * kMiB || low_size % kMiB) return fail(ErrorKind::kInvalid, "--memory: --firmware secure=on needs whole MiB, 4 at least");
  if (config.shared_memory)
    return fail(ErrorKind::kUnsupported, "--firmware secure=on: not with --disk vhost-user=, whose other process would reach what is system management mode's alone");
  if (vm.extension(KVM_CAP_X86_SMM) < 1 || vm.extension(KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
    return fail(ErrorKind::kUnsupported, "--firmware secure=on: this hypervisor has no system management mode");
  if (config.cpus > kMostCpus) return fail(ErrorKind::kInvalid, "--firmware secure=on: at most " + std::to_string(kMostCpus) + " CPUs");
  return {};
}

Result<std::unique_ptr<SystemManagement>> SystemManagement::create(Machine& machine) {
  std::unique_ptr<SystemManagement> made(new SystemManagement(machine));
  TRY_VOID(made->map_second_space());
  return made;
}

// Of the memory below 4 GiB the second space has all but the BIOS area, which both have (machine.set_memory); address line 20 passes there.
Result<> SystemManagement::map_second_space() {
  const MemoryRegion& low = machine_.memory().regions()[0];
  auto map = [&](uint64_t start, uint64_t end) { return machine_.vm().set_memory(Machine::second_space(machine_.new_memory_slot()), start, end - start, low.host + start); };
  TRY_VOID(map(0, kVideo));
  TRY_VOID(map(kBiosEnd, low.size));
  open_slot_ = machine_.new_memory_slot();
  closed_slot_ = Machine::second_space(machine_.new_memory_slot());
  return {};
}

Result<> SystemManagement::show(unsigned slot, bool shown) {
  return machine_.vm().set_memory(slot, kVideo, shown ? kVideoEnd - kVideo : 0, machine_.memory().regions()[0].host + kVideo);
}

void SystemManagement::set(const HostBridge::Smram& smram) {
  if (smram == now_) return;
  const uint64_t end = machine_.memory().regions()[0].size;
  machine_.memory().hide(kTseg, GuestAddress{end - std::min(end, smram.tseg)}, smram.tseg);
  machine_.memory().hide(kCompatible, GuestAddress{kVideo}, smram.compatible && !smram.open ? kVideoEnd - kVideo : 0);
  auto change = [&]() -> Result<> {
    if (smram.tseg != now_.tseg) TRY_VOID(machine_.low_memory().hide_end(smram.tseg));
    if (smram.open != now_.open) TRY_VOID(show(open_slot_, smram.open));
    if (smram.compatible != now_.compatible) TRY_VOID(show(closed_slot_, smram.compatible));
    return {};
  };
  // A guest that goes on would believe to be locked out, or in.
  if (auto done = change(); !done) {
    log(LogLevel::kError, "memory of system management mode: %s", done.error().message.c_str());
    machine_.request_end(1, EndReason::kError);
  }
  now_ = smram;
}

void SystemManagement::interrupt() {
  const int writer = machine_.current_cpu();
  if (all_ || writer < 0)
    for (unsigned cpu = 0; cpu < machine_.config().cpus; cpu++) machine_.system_management_interrupt(cpu);
  else
    machine_.system_management_interrupt(static_cast<unsigned>(writer));
}

void SystemManagement::describe(FwCfg& items) {
  items_ = &items;
  items.set_file(kSupported, little(kBroadcast, 8));
  items.set_writable_file(kRequested, little(0, 8));
  items.set_file(kFeaturesOk, little(0, 1));
  items.renew_before({kFeaturesOk}, [this] { negotiate(); });
}

// Reading features-ok is what asks. What was granted once stays until the next reset.
void SystemManagement::negotiate() {
  if (std::to_integer<uint8_t>(items_->file(kFeaturesOk)[0])) return;
  uint64_t wanted;
  memcpy(&wanted, items_->file(kRequested).data(), sizeof wanted);
  if (wanted & ~kBroadcast) return;
  all_ = wanted & kBroadcast;
  items_->set_file(kFeaturesOk, little(1, 1));
}

void SystemManagement::reset() {
  all_ = false;
  items_->set_writable_file(kRequested, little(0, 8));
  items_->set_file(kFeaturesOk, little(0, 1));
}

}  // namespace vireo
