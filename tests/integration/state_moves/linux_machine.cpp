// SPDX-License-Identifier: Apache-2.0
#include "linux_machine.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "linux_image.h"

namespace vireo::moves {
namespace {

constexpr uint16_t kSerial = 0x3f8, kKeyboardController = 0x64, kRtcData = 0x71;
constexpr unsigned kSerialIrq = 4;
constexpr uint8_t kPulseReset = 0xfe;

struct Kick {
  kvm_run* page = nullptr;
  void (*interrupt)() = nullptr;
};
thread_local Kick t_kick;

void on_kick(int) {
  if (t_kick.page) *const_cast<volatile uint8_t*>(&t_kick.page->immediate_exit) = 1;
  if (t_kick.interrupt) t_kick.interrupt();
}

}  // namespace

LinuxMachine::LinuxMachine(const kvm::Api& api, int ram_fd, int console_fd, unsigned cpus) : api_(api), console_fd_(console_fd) {
  struct stat info;
  if (fstat(ram_fd, &info) != 0) die("the RAM file: %s", strerror(errno));
  ram_size_ = static_cast<size_t>(info.st_size);
  void* ram = mmap(nullptr, ram_size_, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
  if (ram == MAP_FAILED) die("mapping the RAM: %s", strerror(errno));
  ram_ = static_cast<uint8_t*>(ram);

  struct sigaction action {};
  action.sa_handler = on_kick;
  sigaction(SIGUSR1, &action, nullptr);

  system_ = api_.open_system();
  if (system_ < 0) die("%s: %s", api_.name, strerror(-system_));
  vm_ = call(api_, system_, KVM_CREATE_VM, uintptr_t{0}, "KVM_CREATE_VM");
  call(api_, vm_, KVM_SET_TSS_ADDR, uintptr_t{0xfffbd000}, "KVM_SET_TSS_ADDR");
  call(api_, vm_, KVM_CREATE_IRQCHIP, uintptr_t{0}, "KVM_CREATE_IRQCHIP");
  kvm_pit_config pit{.flags = KVM_PIT_SPEAKER_DUMMY};
  call(api_, vm_, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2");
  kvm_userspace_memory_region region{.memory_size = ram_size_, .userspace_addr = reinterpret_cast<uintptr_t>(ram_)};
  call(api_, vm_, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
  run_size_ = static_cast<size_t>(call(api_, system_, KVM_GET_VCPU_MMAP_SIZE, uintptr_t{0}, "KVM_GET_VCPU_MMAP_SIZE"));
  cpus_.resize(cpus);
  for (unsigned i = 0; i < cpus; i++) {
    Cpu& cpu = cpus_[i];
    cpu.fd = call(api_, vm_, KVM_CREATE_VCPU, uintptr_t{i}, "KVM_CREATE_VCPU");
    void* page = mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, cpu.fd, 0);
    if (page == MAP_FAILED) die("mapping kvm_run: %s", strerror(errno));
    cpu.page = static_cast<kvm_run*>(page);
  }
}

void LinuxMachine::boot(const std::string& kernel, const std::string& initrd, const std::string& command_line) {
  const auto count = static_cast<unsigned>(cpus_.size());
  for (unsigned i = 0; i < count; i++) {
    std::vector<kvm_cpuid_entry2> entries = supported_cpuid(api_, system_);
    std::erase_if(entries, [](const kvm_cpuid_entry2& e) { return e.function == 0xb || e.function == 0x1f; });
    for (kvm_cpuid_entry2& e : entries) {
      if (e.function == 0 && e.eax > 0xd) e.eax = 0xd;
      if (e.function != 1) continue;
      e.ebx = (e.ebx & 0xffff) | count << 16 | i << 24;
      e.ecx |= 1u << 31 | 1u << 24 | 1u << 21;  // hypervisor, TSC deadline, x2APIC
      if (count > 1) e.edx |= 1u << 28;
    }
    cpus_[i].cpuid = entries;
    set_cpuid(api_, cpus_[i].fd, entries);
  }
  kvm_regs regs;
  kvm_sregs sregs;
  call(api_, cpus_[0].fd, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
  load_linux(ram_, ram_size_, kernel, initrd, command_line, count, regs, sregs);
  call(api_, cpus_[0].fd, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
  call(api_, cpus_[0].fd, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

SavedVm LinuxMachine::save() {
  SavedVm saved;
  for (Cpu& cpu : cpus_) saved.vcpus.push_back(save_vcpu(api_, system_, vm_, cpu.fd, cpu.cpuid));
  save_chips(api_, vm_, saved);
  saved.devices.resize(sizeof serial_);
  memcpy(saved.devices.data(), &serial_, sizeof serial_);
  return saved;
}

void LinuxMachine::restore(const SavedVm& saved) {
  if (saved.vcpus.size() != cpus_.size() || saved.devices.size() != sizeof serial_) die("the saved state is of another machine");
  restore_chips(api_, vm_, saved);
  for (size_t i = 0; i < cpus_.size(); i++) {
    cpus_[i].cpuid = saved.vcpus[i].cpuid;
    restore_vcpu(api_, cpus_[i].fd, saved.vcpus[i], false);
  }
  restore_clock(api_, vm_, saved);
  memcpy(&serial_, saved.devices.data(), sizeof serial_);
  update_irq();  // the lines into the chips are no state of theirs
}

void LinuxMachine::update_irq() {
  kvm_irq_level level{};
  level.irq = kSerialIrq;
  level.level = serial_.irq();
  call(api_, vm_, KVM_IRQ_LINE, &level, "KVM_IRQ_LINE");
}

void LinuxMachine::port(kvm_run& run) {
  auto* data = reinterpret_cast<uint8_t*>(&run) + run.io.data_offset;
  const bool in = run.io.direction == KVM_EXIT_IO_IN;
  std::lock_guard lock(devices_mutex_);
  for (uint32_t i = 0; i < run.io.count; i++, data += run.io.size) {
    const unsigned offset = static_cast<unsigned>(run.io.port - kSerial);
    if (in) memset(data, 0xff, run.io.size);
    if (offset < 8 && run.io.size == 1) {
      if (in) {
        *data = serial_.read(offset);
      } else if (serial_.write(offset, *data)) {
        if (::write(console_fd_, data, 1) != 1) die("the console: %s", strerror(errno));
      }
      update_irq();
    } else if (in && run.io.port == kRtcData) {
      *data = 0;  // no clock here: the guest has kvmclock
    } else if (in && run.io.port >= kPm1Event && run.io.port < kPm1Control + 2) {
      memset(data, 0, run.io.size);
      if (run.io.port == kPm1Control) *data = 1;  // SCI_EN: the machine is in ACPI mode
    } else if (!in && run.io.port == kKeyboardController && *data == kPulseReset) {
      request_stop(true);
    }
  }
}

bool LinuxMachine::dispatch(Cpu& cpu) {
  kvm_run& run = *cpu.page;
  switch (run.exit_reason) {
    case KVM_EXIT_IO: port(run); return true;
    case KVM_EXIT_MMIO:
      if (!run.mmio.is_write) memset(run.mmio.data, 0xff, sizeof run.mmio.data);
      return true;
    case KVM_EXIT_SHUTDOWN: request_stop(true); return false;
    case KVM_EXIT_INTR: return false;
    default: {
      kvm_regs regs{};
      kvm_sregs sregs{};
      api_.ioctl(cpu.fd, KVM_GET_REGS, reinterpret_cast<uintptr_t>(&regs));
      api_.ioctl(cpu.fd, KVM_GET_SREGS, reinterpret_cast<uintptr_t>(&sregs));
      die("exit reason %u (suberror %u) at %04x:%llx, cr3 %llx", run.exit_reason, run.internal.suberror, sregs.cs.selector, regs.rip, sregs.cr3);
    }
  }
}

void LinuxMachine::request_stop(bool ended) {
  std::lock_guard lock(mutex_);
  stop_ = true;
  stop_requested_ = true;
  ended_ |= ended;
  changed_.notify_all();
}

void LinuxMachine::run_vcpu(Cpu& cpu) {
  t_kick = {cpu.page, api_.interrupt_this_thread};
  bool open = false;
  for (;;) {
    __atomic_store_n(&cpu.page->immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (stop_.load()) break;
    int result = api_.ioctl(cpu.fd, KVM_RUN, 0);
    open = false;
    if (result == 0) {
      open = dispatch(cpu);
      if (exits_left_.fetch_sub(1) == 1) request_stop(false);
    } else if (result == -EAGAIN) {
      sched_yield();
    } else if (result != -EINTR) {
      die("KVM_RUN: %s", strerror(-result));
    }
  }
  // An access that has left is completed before the state is read (api.rst, KVM_RUN); one instruction may leave several times.
  __atomic_store_n(&cpu.page->immediate_exit, 1, __ATOMIC_SEQ_CST);
  while (open) open = api_.ioctl(cpu.fd, KVM_RUN, 0) == 0 && dispatch(cpu);
  t_kick = {};
}

bool LinuxMachine::run(const Stop& stop) {
  exits_left_ = stop.exits;
  stop_ = false;
  for (Cpu& cpu : cpus_) cpu.thread = std::thread([this, &cpu] { run_vcpu(cpu); });
  bool late;
  {
    std::unique_lock lock(mutex_);
    late = !changed_.wait_for(lock, std::chrono::microseconds(stop.microseconds), [this] { return stop_requested_; });
    stop_ = true;
  }
  for (Cpu& cpu : cpus_) pthread_kill(cpu.thread.native_handle(), SIGUSR1);
  for (Cpu& cpu : cpus_) cpu.thread.join();
  if (late && stop.failed_if_late) {
    for (Cpu& cpu : cpus_) {
      kvm_regs regs{};
      kvm_mp_state mp{};
      kvm_lapic_state lapic{};
      call(api_, cpu.fd, KVM_GET_REGS, &regs, "KVM_GET_REGS");
      call(api_, cpu.fd, KVM_GET_MP_STATE, &mp, "KVM_GET_MP_STATE");
      call(api_, cpu.fd, KVM_GET_LAPIC, &lapic, "KVM_GET_LAPIC");
      uint32_t timer, count;
      memcpy(&timer, lapic.regs + 0x320, 4), memcpy(&count, lapic.regs + 0x390, 4);
      fprintf(stderr, "rip %llx rflags %llx mp_state %u lvt timer %x count %x\n", regs.rip, regs.rflags, mp.mp_state, timer, count);
    }
    die("the guest did not end in time");
  }
  std::lock_guard lock(mutex_);
  return ended_;
}

}  // namespace vireo::moves
