// SPDX-License-Identifier: Apache-2.0
// The thread that runs one vCPU: KVM_RUN in a loop, its exits handed to an ExitHandler, pauses at exact points. A pause is
// reached only with no I/O half done, so that the state calls see the whole truth (api.rst, KVM_RUN and immediate_exit).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "base/result.h"
#include "kvm/vcpu.h"

namespace vireo::kvm {

enum class StopReason {
  kShutdown,       // triple fault
  kSystemReset,    // the guest asked through the hypervisor
  kSystemPowerOff,
  kCrash,          // the guest reported a crash
  kFailed,         // the hypervisor cannot go on: `detail` says why
};

// Where the exits of all vCPUs go; called on their threads.
class ExitHandler {
 public:
  virtual ~ExitHandler() = default;
  virtual void port_read(uint16_t port, std::span<std::byte> data) = 0;  // data is all ones on entry
  virtual void port_write(uint16_t port, std::span<const std::byte> data) = 0;
  virtual void mmio_read(uint64_t address, std::span<std::byte> data) = 0;
  virtual void mmio_write(uint64_t address, std::span<const std::byte> data) = 0;
  // The vCPU has stopped by itself and is paused; request a reset or the end from here, but do not wait.
  virtual void stopped(Vcpu& vcpu, StopReason reason, const std::string& detail) = 0;
};

class VcpuThread {
 public:
  VcpuThread(Vcpu& vcpu, ExitHandler& handler, std::optional<int> host_cpu = {});
  ~VcpuThread();  // stops and joins

  Result<> start();        // paused
  void resume();
  void request_pause();    // from any thread, also the vCPU's own: pauses at its next safe point
  void wait_paused();      // not from a vCPU's thread
  bool paused();
  Vcpu& vcpu() { return vcpu_; }
  // The vCPU whose thread calls, or null.
  static Vcpu* current();
  int thread_id() const { return thread_id_.load(std::memory_order_relaxed); }  // gettid(2); 0 before start()
  uint64_t exits() const { return exits_.load(std::memory_order_relaxed); }

 private:
  enum class Wish { kRun, kPause, kEnd };

  void loop();
  bool run_until_wish_changes();  // false when the vCPU stopped by itself
  bool dispatch();
  void complete_io();
  void stop(StopReason reason, const std::string& detail);
  void kick();
  std::string describe_failure(const char* what);

  Vcpu& vcpu_;
  ExitHandler& handler_;
  std::optional<int> host_cpu_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<Wish> wish_ = Wish::kPause;
  bool paused_ = false;     // under mutex_
  bool io_pending_ = false;
  std::atomic<int> thread_id_ = 0;
  std::atomic<uint64_t> exits_ = 0;
};

// The real-time signal that kicks vCPU threads, for whoever sets up signal masks.
int kick_signal();

}  // namespace vireo::kvm
