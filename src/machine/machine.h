// SPDX-License-Identifier: Apache-2.0
// A machine: RAM, vCPUs, interrupt controllers and buses of one VM, and its life from power-on over resets to the end. A board
// (machine/board.h) fills it with devices. All calls are for the event loop's thread unless they say otherwise.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "devices/char_backend.h"
#include "devices/msix.h"
#include "kvm/system.h"
#include "kvm/vcpu.h"
#include "kvm/vcpu_thread.h"
#include "kvm/vm.h"
#include "machine/boot.h"
#include "machine/bus.h"
#include "machine/cpu_model.h"
#include "machine/display_adapter.h"
#include "machine/doorbells.h"
#include "machine/firmware.h"
#include "machine/irq_lines.h"
#include "machine/low_memory.h"
#include "machine/numa.h"
#include "memory/guest_memory.h"

namespace vireo {

class Board;

struct MachineConfig {
  enum class BoardKind { kQ35, kMicrovm };
  BoardKind board = BoardKind::kQ35;
  unsigned cpus = 1;
  CpuModel cpu;
  std::vector<int> cpu_affinity;  // host CPU of each vCPU in turn; empty: not pinned
  MemoryConfig memory;
  bool shared_memory = false;  // other processes will map it, and write to it
  std::vector<NumaConfig> numa;   // empty: one node, which the guest is not told of
  BootConfig boot;                         // of a kernel; with firmware there need be none
  std::optional<FirmwareConfig> firmware;  // kQ35 alone
  std::optional<VgaConfig> vga;              // kQ35 alone
  bool hpet = false;                         // kQ35 alone
  bool reboot = true;  // false: a guest's reset ends the machine
  std::optional<uint16_t> debug_exit;  // port
  bool test_device = false;
  int64_t rtc_start = 0;  // seconds since 1970
};

// What happens to a machine, for whoever watches it.
enum class MachineEvent { kStop, kResume, kReset, kPowerdown, kSuspend, kWakeup };
enum class MachineStatus { kPrelaunch, kRunning, kPaused, kSuspended, kEnded };
// Why it ended.
enum class EndReason { kHost, kGuestShutdown, kGuestReset, kGuestPanic, kError };

class Machine final : private kvm::ExitHandler {
 public:
  static Result<std::unique_ptr<Machine>> create(const MachineConfig& config, const kvm::Api& api, EventLoop& loop,
                                                 CharBackend* serial);
  ~Machine() override;

  // Power-on: loads the kernel and starts the vCPUs.
  Result<> start();
  void pause();
  // The same without turning the loop meanwhile: false while a vCPU is still on its way, and the caller asks again.
  bool try_pause();
  void resume();
  void press_power_button();
  // Any thread, also a vCPU's.
  void request_reset();
  void request_power_off();
  // Suspend to RAM, and back at the guest's waking vector.
  void request_suspend();
  void request_wake();
  void request_end(int status);
  void request_end(int status, EndReason reason);
  // Called once on the loop's thread, when the vCPUs have stopped for good.
  void set_on_end(std::function<void(int status)> on_end) { on_end_ = std::move(on_end); }
  EndReason end_reason() const { return end_reason_; }
  void set_on_event(std::function<void(MachineEvent)> on_event) { on_event_ = std::move(on_event); }
  MachineStatus status() const;

  const MachineConfig& config() const { return config_; }
  Board& board() { return *board_; }
  EventLoop& loop() { return loop_; }
  GuestMemory& memory() { return *memory_; }
  const std::vector<NumaNode>& numa() const { return numa_; }
  kvm::Vm& vm() { return *vm_; }
  // Numbers for memory slots of the board's own.
  unsigned new_memory_slot() { return next_slot_++; }
  // Memory that processors see also in system management mode, where the machine has that. Size 0 deletes the slot.
  Result<> set_memory(unsigned slot, uint64_t start, uint64_t size, const std::byte* host, uint32_t flags = 0);
  // ... and in that mode alone, by vm().set_memory().
  static constexpr unsigned second_space(unsigned slot) { return 1u << 16 | slot; }
  bool has_system_management() const { return config_.firmware && config_.firmware->secure; }
  // Of the calling thread: which vCPU's it is, or -1; and was that in system management mode when it came out?
  int current_cpu() const;
  bool in_system_management() const { return has_system_management() && on_vcpu_in_system_management(); }
  void system_management_interrupt(unsigned cpu);
  LowMemory& low_memory() { return *low_memory_; }
  Bus& ports() { return ports_; }
  Bus& mmio() { return mmio_; }
  IrqLine& irq(unsigned gsi) { return irq_lines_.input(gsi); }
  MsiSink& msi() { return *msi_; }
  Doorbells& doorbells() { return *doorbells_; }
  uint64_t exits() const;
  std::vector<int> vcpu_threads() const;  // gettid(2) of each vCPU's; 0 before start()
  // The files of kvm/statistics.h: the VM's and each vCPU's.
  Result<std::vector<OwnedFd>> statistics() const;
  bool running() const { return state_ == State::kRunning; }

 private:
  enum class State { kOff, kRunning, kPaused, kEnded };

  Machine(const MachineConfig& config, EventLoop& loop);
  Result<> build(const kvm::Api& api, CharBackend* serial);
  Result<> create_vcpus();
  Result<> map_memory();
  Result<> boot();
  Result<> reset_processors();
  void reset();
  void suspend();
  void wake();
  void end(int status);
  bool vcpus_paused();
  bool on_vcpu_in_system_management() const;
  void tell(MachineEvent event) {
    if (on_event_) on_event_(event);
  }

  // Address line 20 always passes in system management mode.
  uint64_t decoded(uint64_t address) const { return in_system_management() ? address : low_memory_->passed(address); }
  void port_read(uint16_t port, std::span<std::byte> data) override { ports_.read(port, data); }
  void port_write(uint16_t port, std::span<const std::byte> data) override { ports_.write(port, data); }
  void mmio_read(uint64_t address, std::span<std::byte> data) override { mmio_.read(decoded(address), data); }
  void mmio_write(uint64_t address, std::span<const std::byte> data) override { mmio_.write(decoded(address), data); }
  void stopped(kvm::Vcpu& vcpu, kvm::StopReason reason, const std::string& detail) override;

  MachineConfig config_;
  EventLoop& loop_;
  State state_ = State::kOff;
  bool suspended_ = false;  // to RAM: no vCPU runs, also in kRunning
  std::function<void(int)> on_end_;
  std::function<void(MachineEvent)> on_event_;
  std::atomic<EndReason> end_reason_ = EndReason::kHost;
  std::atomic<bool> reset_pending_ = false, suspend_pending_ = false;  // asked for, and not done yet

  std::unique_ptr<GuestMemory> memory_;
  unsigned next_slot_ = 0;
  std::vector<NumaNode> numa_;
  std::unique_ptr<kvm::System> system_;
  std::unique_ptr<kvm::Vm> vm_;
  std::unique_ptr<LowMemory> low_memory_;
  std::vector<std::unique_ptr<kvm::Vcpu>> vcpus_;
  Bus ports_, mmio_;
  IrqLines irq_lines_;
  std::unique_ptr<MsiSink> msi_;
  std::unique_ptr<Doorbells> doorbells_;
  BootImage image_;
  std::unique_ptr<Board> board_;
  std::vector<std::unique_ptr<kvm::VcpuThread>> threads_;
  std::vector<uint32_t> msr_indices_;
  std::vector<kvm::VcpuState> reset_states_;
  kvm::ChipState reset_chips_;
  std::optional<int> end_status_;  // of the first end that was asked for
  std::unique_ptr<Timer> reset_again_, suspend_again_, end_again_;
};

}  // namespace vireo
