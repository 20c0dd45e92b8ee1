// SPDX-License-Identifier: Apache-2.0
#include "kvm/vcpu_thread.h"

#include <pthread.h>
#include <sched.h>
#include <csignal>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "base/log.h"

namespace vireo::kvm {
namespace {

// What the signal handler may touch: plain data of the thread it lands on.
struct KickTarget {
  volatile uint8_t* immediate_exit = nullptr;
  void (*interrupt)() = nullptr;
};
thread_local KickTarget t_kick;
thread_local Vcpu* t_vcpu = nullptr;

void on_kick(int) {
  if (t_kick.immediate_exit) *t_kick.immediate_exit = 1;
  if (t_kick.interrupt) t_kick.interrupt();
}

void install_kick_handler() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_handler = on_kick;
    action.sa_flags = SA_ONSTACK;  // no SA_RESTART: KVM_RUN shall return
    sigemptyset(&action.sa_mask);
    return sigaction(kick_signal(), &action, nullptr) == 0;
  }();
  (void)installed;
}

}  // namespace

int kick_signal() { return SIGRTMIN + 1; }

VcpuThread::VcpuThread(Vcpu& vcpu, ExitHandler& handler, std::optional<int> host_cpu)
    : vcpu_(vcpu), handler_(handler), host_cpu_(host_cpu) {}

VcpuThread::~VcpuThread() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    wish_ = Wish::kEnd;
    kick();
  }
  changed_.notify_all();
  thread_.join();
}

Result<> VcpuThread::start() {
  install_kick_handler();
  // A new thread starts with its creator's mask: block everything first, so that no signal meant for others lands on it.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { loop(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (host_cpu_) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(*host_cpu_, &set);
    if (int code = pthread_setaffinity_np(thread_.native_handle(), sizeof set, &set))
      return fail_errno("pinning vcpu " + std::to_string(vcpu_.id()) + " to host cpu " + std::to_string(*host_cpu_), code);
  }
  wait_paused();
  return {};
}

Vcpu* VcpuThread::current() { return t_vcpu; }

void VcpuThread::resume() {
  std::lock_guard lock(mutex_);
  if (wish_ == Wish::kEnd) return;
  wish_ = Wish::kRun;
  paused_ = false;
  changed_.notify_all();
}

void VcpuThread::request_pause() {
  std::lock_guard lock(mutex_);
  if (wish_ != Wish::kRun) return;
  wish_ = Wish::kPause;
  kick();
  changed_.notify_all();  // it may be waiting in a halt
}

void VcpuThread::wait_paused() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return paused_; });
}

bool VcpuThread::paused() {
  std::lock_guard lock(mutex_);
  return paused_ || !thread_.joinable();
}

void VcpuThread::kick() {
  if (thread_.joinable() && thread_.get_id() != std::this_thread::get_id()) pthread_kill(thread_.native_handle(), kick_signal());
}

void VcpuThread::loop() {
  thread_id_ = gettid();
  char name[16];
  snprintf(name, sizeof name, "vcpu %u", vcpu_.id());
  prctl(PR_SET_NAME, name);
  // Signals meant for the process go to the main thread; this one takes kicks alone.
  sigset_t set;
  sigfillset(&set);
  for (int keep : {kick_signal(), SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&set, keep);
  pthread_sigmask(SIG_SETMASK, &set, nullptr);
  t_vcpu = &vcpu_;
  t_kick = {&vcpu_.run_page().immediate_exit, vcpu_.api().interrupt_this_thread};

  for (;;) {
    {
      std::unique_lock lock(mutex_);
      // Said at each wake-up anew: resume() unsays it, and the next pause can be asked for before this thread has run.
      while (wish_ == Wish::kPause) {
        paused_ = true;
        changed_.notify_all();
        changed_.wait(lock);
      }
      if (wish_ == Wish::kEnd) break;
    }
    run_until_wish_changes();
    complete_io();
  }
  t_kick = {};
  t_vcpu = nullptr;
  std::lock_guard lock(mutex_);
  paused_ = true;
  changed_.notify_all();
}

bool VcpuThread::run_until_wish_changes() {
  kvm_run& run = vcpu_.run_page();
  for (;;) {
    // In this order: a kick between the two lines sets immediate_exit again, so none is lost.
    __atomic_store_n(&run.immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (wish_.load() != Wish::kRun) return true;
    int code = vcpu_.run();
    io_pending_ = false;
    if (code == 0) {
      exits_.fetch_add(1, std::memory_order_relaxed);
      if (!dispatch()) return false;
    } else if (code == EAGAIN) {
      sched_yield();  // an application processor that has not been started, with a signal pending
    } else if (code != EINTR) {
      stop(StopReason::kFailed, describe_failure((std::string("KVM_RUN: ") + strerror(code)).c_str()));
      return false;
    }
  }
}

void VcpuThread::complete_io() {
  if (!io_pending_) return;
  __atomic_store_n(&vcpu_.run_page().immediate_exit, 1, __ATOMIC_SEQ_CST);
  // One I/O instruction can leave several times (rep ins, an access cut into pieces): each goes to its device until none is left.
  while (io_pending_) {
    io_pending_ = false;
    int code = vcpu_.run();
    if (code == 0 && (vcpu_.run_page().exit_reason == KVM_EXIT_IO || vcpu_.run_page().exit_reason == KVM_EXIT_MMIO)) dispatch();
  }
}

void VcpuThread::stop(StopReason reason, const std::string& detail) {
  {
    std::lock_guard lock(mutex_);
    if (wish_ == Wish::kRun) wish_ = Wish::kPause;
  }
  handler_.stopped(vcpu_, reason, detail);
}

// Handles the exit in kvm_run; false when the vCPU must not go on.
bool VcpuThread::dispatch() {
  kvm_run& run = vcpu_.run_page();
  switch (run.exit_reason) {
    case KVM_EXIT_IO: {
      std::span<std::byte> data = vcpu_.io_data();
      size_t size = run.io.size;
      auto port = run.io.port;
      bool in = run.io.direction == KVM_EXIT_IO_IN;
      if (in) memset(data.data(), 0xff, data.size());
      for (size_t at = 0; at + size <= data.size() && size; at += size) {
        if (in)
          handler_.port_read(port, data.subspan(at, size));
        else
          handler_.port_write(port, data.subspan(at, size));
      }
      io_pending_ = true;
      return true;
    }
    case KVM_EXIT_MMIO: {
      auto* bytes = reinterpret_cast<std::byte*>(run.mmio.data);
      size_t size = std::min<size_t>(run.mmio.len, sizeof run.mmio.data);
      if (run.mmio.is_write) {
        handler_.mmio_write(run.mmio.phys_addr, {bytes, size});
      } else {
        memset(bytes, 0xff, size);
        handler_.mmio_read(run.mmio.phys_addr, {bytes, size});
      }
      io_pending_ = true;
      return true;
    }
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return true;
    case KVM_EXIT_HLT: {
      // Only without in-kernel interrupt controllers, where nothing but a kick can end the halt.
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return wish_ != Wish::kRun; });
      return true;
    }
    case KVM_EXIT_SHUTDOWN:
      stop(StopReason::kShutdown, "triple fault");
      return false;
    case KVM_EXIT_SYSTEM_EVENT:
      switch (run.system_event.type) {
        case KVM_SYSTEM_EVENT_SHUTDOWN:
          stop(StopReason::kSystemPowerOff, "system event");
          return false;
        case KVM_SYSTEM_EVENT_RESET:
          stop(StopReason::kSystemReset, "system event");
          return false;
        default:
          stop(StopReason::kCrash, "system event " + std::to_string(run.system_event.type));
          return false;
      }
    case KVM_EXIT_INTERNAL_ERROR: {
      char text[80];
      snprintf(text, sizeof text, "internal error, suberror %u", run.internal.suberror);
      stop(StopReason::kFailed, describe_failure(text));
      return false;
    }
    case KVM_EXIT_FAIL_ENTRY: {
      char text[80];
      snprintf(text, sizeof text, "entry failed, hardware reason 0x%llx",
               static_cast<unsigned long long>(run.fail_entry.hardware_entry_failure_reason));
      stop(StopReason::kFailed, describe_failure(text));
      return false;
    }
    default: {
      char text[80];
      snprintf(text, sizeof text, "exit reason %u is not handled", run.exit_reason);
      stop(StopReason::kFailed, describe_failure(text));
      return false;
    }
  }
}

std::string VcpuThread::describe_failure(const char* what) {
  std::string text = std::string(vcpu_.api().name) + ": vcpu " + std::to_string(vcpu_.id()) + ": " + what;
  auto regs = vcpu_.regs();
  auto sregs = vcpu_.sregs();
  if (!regs || !sregs) return text;
  char state[200];
  snprintf(state, sizeof state, " at cs:rip %04x:%016llx rsp %016llx rflags %llx cr0 %llx cr3 %llx cr4 %llx efer %llx", sregs->cs.selector,
           static_cast<unsigned long long>(regs->rip), static_cast<unsigned long long>(regs->rsp), static_cast<unsigned long long>(regs->rflags),
           static_cast<unsigned long long>(sregs->cr0), static_cast<unsigned long long>(sregs->cr3),
           static_cast<unsigned long long>(sregs->cr4), static_cast<unsigned long long>(sregs->efer));
  text += state;
  const kvm_run& run = vcpu_.run_page();
  if (run.exit_reason == KVM_EXIT_INTERNAL_ERROR && run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run.internal.ndata >= 3 &&
      (run.emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
    text += " code";
    for (unsigned i = 0; i < std::min<unsigned>(run.emulation_failure.insn_size, 15); i++) {
      char byte[4];
      snprintf(byte, sizeof byte, " %02x", run.emulation_failure.insn_bytes[i]);
      text += byte;
    }
  }
  return text;
}

}  // namespace vireo::kvm
