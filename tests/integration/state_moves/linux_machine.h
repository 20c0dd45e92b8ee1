// SPDX-License-Identifier: Apache-2.0
// The smallest machine that boots Linux: RAM in a file that processes share, in-kernel interrupt controllers and PIT, a serial port. It can
// be stopped at any moment, saved, and made anew elsewhere.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "saved_state.h"
#include "serial_port.h"

namespace vireo::moves {

class LinuxMachine {
 public:
  // The RAM is all of `ram_fd`; the console goes to `console_fd`.
  LinuxMachine(const kvm::Api& api, int ram_fd, int console_fd, unsigned cpus);

  void boot(const std::string& kernel, const std::string& initrd, const std::string& command_line);
  void restore(const SavedVm& saved);
  // Only when stopped.
  SavedVm save();

  struct Stop {
    uint64_t microseconds;  // after which it stops, or
    uint64_t exits;         // after so many exits
    bool failed_if_late;    // the guest was to end by itself before that
  };
  // True: the guest has ended by itself.
  bool run(const Stop& stop);

 private:
  struct Cpu {
    int fd;
    kvm_run* page;
    std::vector<kvm_cpuid_entry2> cpuid;
    std::thread thread;
  };

  void create_vcpus();
  void run_vcpu(Cpu& cpu);
  bool dispatch(Cpu& cpu);  // true: an access was answered, which the next KVM_RUN completes
  void port(kvm_run& run);
  void request_stop(bool ended);
  void update_irq();  // under devices_mutex_

  const kvm::Api& api_;
  int console_fd_, system_, vm_;
  uint8_t* ram_;
  size_t ram_size_;
  size_t run_size_;
  std::vector<Cpu> cpus_;

  std::mutex devices_mutex_;
  SerialPort serial_;

  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> exits_left_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_requested_ = false, ended_ = false;  // under mutex_
};

}  // namespace vireo::moves
