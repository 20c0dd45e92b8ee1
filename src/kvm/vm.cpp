// SPDX-License-Identifier: Apache-2.0
#include "kvm/vm.h"

#include <sys/mman.h>

#include "kvm/variable_structs.h"
#include "kvm/vcpu.h"

namespace vireo::kvm {

int Vm::extension(unsigned capability) const {
  return handle_.call(KVM_CHECK_EXTENSION, uintptr_t{capability}, "KVM_CHECK_EXTENSION").value_or(0);
}

Result<> Vm::set_memory(unsigned slot, uint64_t guest_address, uint64_t size, const void* host, uint32_t flags) {
  kvm_userspace_memory_region region{.slot = slot,
                                     .flags = flags,
                                     .guest_phys_addr = guest_address,
                                     .memory_size = size,
                                     .userspace_addr = reinterpret_cast<uintptr_t>(host)};
  TRY(handle_.call(KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION"));
  return {};
}

Result<> Vm::allow_large_pages(const void* host, uint64_t size) const {
  if (!handle_.api().allow_large_pages) return {};
  if (int result = handle_.api().allow_large_pages(this->fd(), host, size); result < 0) return fail_errno("large pages for guest memory", -result);
  return {};
}

Result<> Vm::lend_memory(const void* host, uint64_t size, int fd, uint64_t offset) const {
  if (!handle_.api().lend_memory) return {};
  if (int result = handle_.api().lend_memory(this->fd(), host, size, fd, offset); result < 0) return fail_errno("lending guest memory", -result);
  return {};
}

Result<> Vm::set_tss_address(uint64_t address) {
  TRY(handle_.call(KVM_SET_TSS_ADDR, static_cast<uintptr_t>(address), "KVM_SET_TSS_ADDR"));
  return {};
}

Result<> Vm::set_identity_map_address(uint64_t address) {
  TRY(handle_.call(KVM_SET_IDENTITY_MAP_ADDR, &address, "KVM_SET_IDENTITY_MAP_ADDR"));
  return {};
}

Result<> Vm::create_irqchip() {
  TRY(handle_.call(KVM_CREATE_IRQCHIP, uintptr_t{0}, "KVM_CREATE_IRQCHIP"));
  return {};
}

Result<> Vm::create_pit() {
  kvm_pit_config config{.flags = KVM_PIT_SPEAKER_DUMMY};
  TRY(handle_.call(KVM_CREATE_PIT2, &config, "KVM_CREATE_PIT2"));
  return {};
}

Result<> Vm::set_interrupt_routes(std::span<const kvm_irq_routing_entry> routes) {
  RoutingTable table(routes);
  TRY(handle_.call(kSetGsiRouting, table.data(), "KVM_SET_GSI_ROUTING"));
  return {};
}

Result<> Vm::set_boot_cpu(unsigned id) {
  TRY(handle_.call(KVM_SET_BOOT_CPU_ID, uintptr_t{id}, "KVM_SET_BOOT_CPU_ID"));
  return {};
}

Result<ChipState> Vm::chip_state() const {
  ChipState state;
  for (unsigned i = 0; i < 3; i++) {
    state.chips[i].chip_id = i;
    TRY(handle_.call(KVM_GET_IRQCHIP, &state.chips[i], "KVM_GET_IRQCHIP"));
  }
  state.has_pit = handle_.call(KVM_GET_PIT2, &state.pit, "KVM_GET_PIT2").has_value();
  return state;
}

Result<> Vm::set_chip_state(const ChipState& state) {
  for (kvm_irqchip chip : state.chips) TRY(handle_.call(KVM_SET_IRQCHIP, &chip, "KVM_SET_IRQCHIP"));
  if (state.has_pit) {
    kvm_pit_state2 pit = state.pit;
    TRY(handle_.call(KVM_SET_PIT2, &pit, "KVM_SET_PIT2"));
  }
  return {};
}

Result<> Vm::replace_pit(bool replaced) const {
  kvm_pit_state2 pit;
  TRY(handle_.call(KVM_GET_PIT2, &pit, "KVM_GET_PIT2"));
  pit.flags = (pit.flags & ~uint32_t{KVM_PIT_FLAGS_HPET_LEGACY}) | (replaced ? KVM_PIT_FLAGS_HPET_LEGACY : 0);
  TRY(handle_.call(KVM_SET_PIT2, &pit, "KVM_SET_PIT2"));
  return {};
}

Result<> Vm::irq_line(unsigned gsi, bool level) const {
  kvm_irq_level line{};
  line.irq = gsi;
  line.level = level;
  TRY(handle_.call(KVM_IRQ_LINE, &line, "KVM_IRQ_LINE"));
  return {};
}

Result<bool> Vm::signal_msi(uint64_t address, uint32_t data) const {
  kvm_msi msi{.address_lo = static_cast<uint32_t>(address), .address_hi = static_cast<uint32_t>(address >> 32), .data = data};
  return TRY(handle_.call(KVM_SIGNAL_MSI, &msi, "KVM_SIGNAL_MSI")) > 0;
}

Result<> Vm::ioeventfd(int event_fd, uint64_t address, uint32_t size, bool pio, bool match, uint64_t value, bool remove) const {
  kvm_ioeventfd event{};
  event.datamatch = value;
  event.addr = address;
  event.len = size;
  event.fd = event_fd;
  event.flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0u) | (match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u) |
                (remove ? KVM_IOEVENTFD_FLAG_DEASSIGN : 0u);
  TRY(handle_.call(KVM_IOEVENTFD, &event, "KVM_IOEVENTFD"));
  return {};
}

Result<> Vm::doorbell(const DirectDoorbell& doorbell, bool remove) const {
  auto call = remove ? handle_.api().remove_doorbell : handle_.api().add_doorbell;
  if (!call) return fail(ErrorKind::kUnsupported, "direct doorbells");
  if (int result = call(fd(), doorbell); result < 0) return fail_errno("direct doorbell", -result);
  return {};
}

void Vm::notice_write(const void* host, size_t size) const {
  if (handle_.api().notice_write) handle_.api().notice_write(fd(), host, size);
}

Result<OwnedFd> Vm::statistics() const {
  if (extension(KVM_CAP_BINARY_STATS_FD) <= 0) return fail(ErrorKind::kUnsupported, std::string(api().name) + ": no binary statistics");
  return OwnedFd(TRY(handle_.call(KVM_GET_STATS_FD, uintptr_t{0}, "KVM_GET_STATS_FD")));
}

Result<std::unique_ptr<Vcpu>> Vm::create_vcpu(unsigned id) {
  Handle handle(handle_.api(), TRY(handle_.call(KVM_CREATE_VCPU, uintptr_t{id}, "KVM_CREATE_VCPU")));
  size_t size = system_->vcpu_mapping_size();
  void* run = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, handle.fd(), 0);
  if (run == MAP_FAILED) return fail_errno("mapping kvm_run");
  return std::unique_ptr<Vcpu>(new Vcpu(*this, std::move(handle), id, static_cast<kvm_run*>(run), size));
}

}  // namespace vireo::kvm
