// SPDX-License-Identifier: Apache-2.0
#include "machine/machine.h"

#include <algorithm>

#include "base/log.h"
#include "machine/board.h"
#include "machine/cpuid.h"
#include "machine/interrupt_routes.h"
#include "machine/system_management.h"

namespace vireo {
namespace {

// UEFI maps all that the CPU can address, in pages of 2 MiB: with 48 bits the tables alone take 1 GiB. QEMU's guests have 40 by default.
constexpr unsigned kFirmwarePhysicalBits = 40;
CpuModel for_firmware(CpuModel model, const std::vector<kvm_cpuid_entry2>& offer, uint64_t memory) {
  for (const kvm_cpuid_entry2& entry : offer)
    if (entry.function == 0x80000008 && !model.physical_bits && memory < 1ull << (kFirmwarePhysicalBits - 1))
      model.physical_bits = std::min<unsigned>(entry.eax & 0xff, kFirmwarePhysicalBits);
  return model;
}

// Four pages that Intel's hardware needs in real mode, below the 16 MiB that firmware may have; no board puts anything there.
constexpr uint64_t kTssAddress = 0xfeffd000, kIdentityMap = 0xfeffc000;
// What lies between is the board's: with firmware video memory and the BIOS area, without it at most video memory.
constexpr uint64_t kLegacyHole = 0xa0000, kVideoEnd = 0xc0000, kLegacyHoleEnd = 0x100000;

// How soon vCPUs that were asked to stop are looked at again.
constexpr uint64_t kAgainNs = 200'000;

class VmMsiSink final : public MsiSink {
 public:
  explicit VmMsiSink(const kvm::Vm& vm) : vm_(vm) {}
  void send(uint64_t address, uint32_t data) override {
    // A message to an address outside the interrupt window is a write the guest asked for; there is nobody to take it.
    (void)vm_.signal_msi(address, data);
  }

 private:
  const kvm::Vm& vm_;
};

// MSRs that a firmware has set before it starts an operating system. A hypervisor that has one of them not leaves it out.
void set_as_firmware(kvm::Vcpu& vcpu) {
  (void)vcpu.set_msr(0x1a0, 1);  // IA32_MISC_ENABLE: REP MOVS and STOS by the fast microcode
  // HWCR.TscFreqSel: the time-stamp counter counts at P0's frequency (AMD's Processor Programming References, MSRC001_0015). Linux calls a firmware faulty
  // that leaves it clear beside an invariant counter.
  (void)vcpu.set_msr(0xc0010015, 1 << 24);
}

}  // namespace

Machine::Machine(const MachineConfig& config, EventLoop& loop)
    : config_(config),
      loop_(loop),
      irq_lines_([this](unsigned gsi, bool level) { (void)vm_->irq_line(gsi, level); }),
      reset_again_(loop.create([this] { reset(); })),
      suspend_again_(loop.create([this] { suspend(); })),
      end_again_(loop.create([this] { end(*end_status_); })) {}

Machine::~Machine() {
  threads_.clear();
  board_.reset();
}

Result<std::unique_ptr<Machine>> Machine::create(const MachineConfig& config, const kvm::Api& api, EventLoop& loop,
                                                 CharBackend* serial) {
  std::unique_ptr<Machine> machine(new Machine(config, loop));
  TRY_VOID(machine->build(api, serial));
  return machine;
}

Result<> Machine::build(const kvm::Api& api, CharBackend* serial) {
  if (!config_.firmware) image_ = TRY(BootImage::open(config_.boot));
  system_ = TRY(kvm::System::open(api));
  int most = system_->extension(KVM_CAP_MAX_VCPUS);
  if (config_.cpus < 1 || (most > 0 && config_.cpus > static_cast<unsigned>(most)))
    return fail(ErrorKind::kInvalid, "--cpus " + std::to_string(config_.cpus) + ": 1 to " + std::to_string(most) + " are possible");
  config_.memory.prefer_shared = api.lend_memory != nullptr || config_.shared_memory;
  if (config_.shared_memory && api.expect_foreign_writes) api.expect_foreign_writes();
  auto memory = GuestMemory::create(config_.memory, Board::low_memory_limit(config_));
  if (!memory) return fail(memory.error().kind, "--memory " + memory.error().message, memory.error().code);
  memory_ = std::move(*memory);
  numa_ = TRY(lay_out_numa(config_.numa, config_.cpus, memory_->regions()));
  vm_ = TRY(system_->create_vm());
  if (has_system_management()) TRY_VOID(SystemManagement::check(config_, *memory_, *vm_));
  TRY_VOID(vm_->set_identity_map_address(kIdentityMap));
  TRY_VOID(vm_->set_tss_address(kTssAddress));
  TRY_VOID(vm_->create_irqchip());
  TRY_VOID(vm_->create_pit());
  TRY_VOID(vm_->set_interrupt_routes(pc_interrupt_routes()));
  TRY_VOID(map_memory());
  if (memory_->large_pages())
    for (const MemoryRegion& region : memory_->regions()) TRY_VOID(vm_->allow_large_pages(region.host, region.size));
  if (const int file = memory_->shared_file(); file >= 0) {
    uint64_t offset = 0;
    for (const MemoryRegion& region : memory_->regions()) {
      TRY_VOID(vm_->lend_memory(region.host, region.size, file, offset));
      offset += region.size;
    }
  }
  memory_->set_write_notice([this](GuestAddress start, uint64_t size) {
    auto bytes = memory_->range(start, size);
    if (!bytes.empty()) vm_->notice_write(bytes.data(), bytes.size());
  });
  msi_ = std::make_unique<VmMsiSink>(*vm_);
  doorbells_ = std::make_unique<Doorbells>(*vm_, loop_);
  TRY_VOID(create_vcpus());
  reset_chips_ = TRY(vm_->chip_state());
  board_ = TRY(Board::create(*this, serial));
  return {};
}

Result<> Machine::map_memory() {
  const auto& regions = memory_->regions();
  LowMemory::Config low{.ram = regions[0], .new_slot = [this] { return new_memory_slot(); },
                        .set_slot = [this](unsigned slot, uint64_t start, uint64_t size, const std::byte* host) { return vm_->set_memory(slot, start, size, host); }};
  if (config_.firmware || config_.vga) low.hole = kLegacyHole, low.hole_end = config_.firmware ? kLegacyHoleEnd : kVideoEnd;
  if (has_system_management()) low.cuts = {16 << 20, 8 << 20, 2 << 20, 1 << 20};
  low_memory_ = std::make_unique<LowMemory>(std::move(low));
  TRY_VOID(low_memory_->map());
  for (size_t i = 1; i < regions.size(); i++) TRY_VOID(set_memory(new_memory_slot(), raw(regions[i].start), regions[i].size, regions[i].host));
  return {};
}

Result<> Machine::set_memory(unsigned slot, uint64_t start, uint64_t size, const std::byte* host, uint32_t flags) {
  TRY_VOID(vm_->set_memory(slot, start, size, host, flags));
  return has_system_management() ? vm_->set_memory(second_space(slot), start, size, host, flags) : Result<>{};
}

int Machine::current_cpu() const {
  const kvm::Vcpu* vcpu = kvm::VcpuThread::current();
  return vcpu ? static_cast<int>(vcpu->id()) : -1;
}

bool Machine::on_vcpu_in_system_management() const {
  kvm::Vcpu* vcpu = kvm::VcpuThread::current();
  return vcpu && vcpu->run_page().flags & KVM_RUN_X86_SMM;
}

// As a message of the APICs' bus, delivery mode SMI (Intel SDM vol 3, 10.11.2): it interrupts a vCPU that runs as well as one that does not. A guest that
// switches an APIC off keeps its processor out; firmware waits for it a while, and what protects memory and flash is each processor's own mode.
void Machine::system_management_interrupt(unsigned cpu) { (void)vm_->signal_msi(0xfee00000 | cpu << 12, 0x200); }

Result<> Machine::create_vcpus() {
  auto offer = TRY(system_->supported_cpuid());
  bool tsc_deadline = system_->extension(KVM_CAP_TSC_DEADLINE_TIMER);
  msr_indices_ = TRY(system_->msr_indices());
  const CpuModel model = config_.firmware ? for_firmware(config_.cpu, offer, config_.memory.size) : config_.cpu;
  for (unsigned id = 0; id < config_.cpus; id++) {
    auto vcpu = TRY(vm_->create_vcpu(id));
    TRY_VOID(vcpu->set_cpuid(TRY(apply_cpu_model(model, guest_cpuid(offer, id, config_.cpus, tsc_deadline)))));
    set_as_firmware(*vcpu);
    reset_states_.push_back(TRY(vcpu->state(msr_indices_)));
    if (vcpu->api().lend_memory) TRY_VOID(vcpu->share_host_tsc());
    vcpus_.push_back(std::move(vcpu));
  }
  for (unsigned id = 0; id < config_.cpus; id++) {
    std::optional<int> host_cpu;
    if (!config_.cpu_affinity.empty()) host_cpu = config_.cpu_affinity[id % config_.cpu_affinity.size()];
    kvm::ExitHandler& exits = *this;
    threads_.push_back(std::make_unique<kvm::VcpuThread>(*vcpus_[id], exits, host_cpu));
  }
  return {};
}

Result<> Machine::boot() {
  BootEnvironment environment = TRY(board_->prepare_boot());
  if (config_.firmware) return {};  // the processors' reset state is what it begins with
  CpuEntry entry = TRY(image_.load(environment));
  if (entry.firmware_vectors) {
    kvm::ChipState chips = TRY(vm_->chip_state());
    chips.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic.irq_base = 8;
    chips.chips[KVM_IRQCHIP_PIC_SLAVE].chip.pic.irq_base = 0x70;
    TRY_VOID(vm_->set_chip_state(chips));
  }
  return enter(*vcpus_[0], *memory_, entry);
}

Result<> Machine::start() {
  TRY_VOID(boot());
  for (auto& thread : threads_)
    if (auto started = thread->start(); !started) return std::unexpected(std::move(started).error().within("--cpu-affinity"));
  state_ = State::kRunning;
  for (auto& thread : threads_) thread->resume();
  return {};
}

// Asks all to stop, and says whether they have. A vCPU may be inside a device that waits for this loop, so nothing that is done there waits for
// vCPUs: it comes again. What the loop brings meanwhile may end the machine, pause it, or let a vCPU go on; so the wish is said anew each time.
bool Machine::vcpus_paused() {
  for (auto& thread : threads_) thread->request_pause();
  return std::ranges::all_of(threads_, [](auto& thread) { return thread->paused(); });
}

void Machine::pause() {
  while (!try_pause()) loop_.step(1);
}

bool Machine::try_pause() {
  if (state_ != State::kRunning) return true;
  if (!vcpus_paused() || end_status_) return false;  // no pause comes before an end that was asked for first
  state_ = State::kPaused;
  tell(MachineEvent::kStop);
  return true;
}

void Machine::resume() {
  if (state_ != State::kPaused) return;
  state_ = State::kRunning;
  tell(MachineEvent::kResume);
  if (suspended_) return;
  for (auto& thread : threads_) thread->resume();
}

MachineStatus Machine::status() const {
  switch (state_) {
    case State::kOff: return MachineStatus::kPrelaunch;
    case State::kRunning: return suspended_ ? MachineStatus::kSuspended : MachineStatus::kRunning;
    case State::kPaused: return MachineStatus::kPaused;
    case State::kEnded: break;
  }
  return MachineStatus::kEnded;
}

void Machine::press_power_button() {
  tell(MachineEvent::kPowerdown);
  board_->press_power_button();
}

void Machine::request_reset() {
  if (!config_.reboot) return request_end(0, EndReason::kGuestReset);
  if (reset_pending_.exchange(true)) return;
  for (auto& thread : threads_) thread->request_pause();
  loop_.post([this] { reset(); });
}

void Machine::request_power_off() { request_end(0, EndReason::kGuestShutdown); }

void Machine::request_end(int status) { request_end(status, EndReason::kHost); }

void Machine::request_end(int status, EndReason reason) {
  EndReason first = EndReason::kHost;
  end_reason_.compare_exchange_strong(first, reason);
  for (auto& thread : threads_) thread->request_pause();
  loop_.post([this, status] { end(status); });
}

Result<> Machine::reset_processors() {
  TRY_VOID(vm_->set_chip_state(reset_chips_));
  for (size_t i = 0; i < vcpus_.size(); i++) {
    TRY_VOID(vcpus_[i]->set_state(reset_states_[i]));
    if (vcpus_[i]->api().lend_memory) TRY_VOID(vcpus_[i]->share_host_tsc());
  }
  return {};
}

void Machine::request_suspend() {
  if (suspend_pending_.exchange(true)) return;
  for (auto& thread : threads_) thread->request_pause();
  loop_.post([this] { suspend(); });
}

void Machine::suspend() {
  if (state_ == State::kEnded || !suspend_pending_) return;  // a reset that came first is the end of it
  if (!vcpus_paused()) return suspend_again_->arm(loop_.now_ns() + kAgainNs);
  suspend_pending_ = false;
  suspended_ = true;
  board_->sleep();
  tell(MachineEvent::kSuspend);
}

void Machine::request_wake() {
  loop_.post([this] { wake(); });
}

void Machine::wake() {
  if (state_ == State::kEnded || !suspended_) return;
  suspended_ = false;
  tell(MachineEvent::kWakeup);
  auto result = [this]() -> Result<bool> {
    TRY_VOID(reset_processors());
    board_->reset(ResetKind::kWake);
    return enter_waking_vector(*vcpus_[0], *memory_, board_->facs());
  }();
  if (!result) {
    log(LogLevel::kError, "wake: %s", result.error().message.c_str());
    return end(1);
  }
  if (!*result) {
    log(LogLevel::kInfo, "guest reset: it slept without a waking vector");
    return request_reset();
  }
  if (state_ == State::kRunning)
    for (auto& thread : threads_) thread->resume();
}

void Machine::reset() {
  if (state_ == State::kEnded) return;
  if (!vcpus_paused()) return reset_again_->arm(loop_.now_ns() + kAgainNs);
  reset_pending_ = suspend_pending_ = suspended_ = false;
  tell(MachineEvent::kReset);
  board_->reset(ResetKind::kCold);
  auto result = [this]() -> Result<> {
    TRY_VOID(reset_processors());
    return boot();
  }();
  if (!result) {
    log(LogLevel::kError, "reset: %s", result.error().message.c_str());
    return end(1);
  }
  if (state_ == State::kRunning)
    for (auto& thread : threads_) thread->resume();
}

void Machine::end(int status) {
  if (state_ == State::kEnded) return;
  if (!end_status_) end_status_ = status;
  if (!vcpus_paused()) return end_again_->arm(loop_.now_ns() + kAgainNs);
  state_ = State::kEnded;
  if (on_end_) on_end_(*end_status_);
}

void Machine::stopped(kvm::Vcpu&, kvm::StopReason reason, const std::string& detail) {
  switch (reason) {
    case kvm::StopReason::kShutdown:
    case kvm::StopReason::kSystemReset:
      log(LogLevel::kInfo, "guest reset: %s", detail.c_str());
      return request_reset();
    case kvm::StopReason::kSystemPowerOff:
      return request_power_off();
    case kvm::StopReason::kCrash:
      log(LogLevel::kError, "the guest crashed: %s", detail.c_str());
      return request_end(1, EndReason::kGuestPanic);
    case kvm::StopReason::kFailed:
      log(LogLevel::kError, "%s", detail.c_str());
      return request_end(1, EndReason::kError);
  }
}

Result<std::vector<OwnedFd>> Machine::statistics() const {
  std::vector<OwnedFd> files;
  files.push_back(TRY(vm_->statistics()));
  for (auto& vcpu : vcpus_) files.push_back(TRY(vcpu->statistics()));
  return files;
}

std::vector<int> Machine::vcpu_threads() const {
  std::vector<int> ids;
  for (auto& thread : threads_) ids.push_back(thread->thread_id());
  return ids;
}

uint64_t Machine::exits() const {
  uint64_t sum = 0;
  for (auto& thread : threads_) sum += thread->exits();
  return sum;
}

}  // namespace vireo
