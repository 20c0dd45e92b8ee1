// SPDX-License-Identifier: Apache-2.0
// A VM's share in a folder of translated code: reads the file that fits it beside the vCPUs, and writes what they have made for the next VM, when this
// one ends, and now and then before that. All of it is the slow half's; the FAST half sees `blocks`.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/owned_fd.h"
#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/vcpu_state.h"
#include "softkvm/translate/code_file.h"
#include "softkvm/translate/code_folder.h"
#include "softkvm/translate/code_lock.h"
#include "softkvm/translate/stored_blocks.h"

namespace vireo::softkvm {

class Vcpu;
struct VmCounters;

class StoredCode {
 public:
  // Where the process keeps translated code, from now on for each new VM. Not empty: the folder is there and is to be trusted.
  static Result<> keep(const std::string& folder, uint64_t most);
  static void keep_nothing();  // for tests
  // Null where no code is kept.
  static std::unique_ptr<StoredCode> create(uint32_t off, CodeLock& lock, VmCounters& counters);
  ~StoredCode();

  // Which blocks the vCPU may take and leave there: null, where it is another CPU than the first one. By the vCPU's thread, before it runs.
  StoredBlocks* blocks_for(const Vcpu& vcpu);

  // Writes a file, if what has been made since the last time is worth it.
  void save();
  // For tests: the file has been read, as far as it can be.
  void wait_until_read();

 private:
  StoredCode(std::shared_ptr<const CodeFolder> folder, uint32_t off, CodeLock& lock, VmCounters& counters);
  void start(const Vcpu& vcpu, const CodeKey& key);
  void run();
  void read();
  Result<> write(size_t made_end);
  std::vector<const MadeBlock*> by_page(size_t end) const;
  Result<> collect(StoredBlocks& into, size_t made_end, const StoredBlocks* newer);

  const std::shared_ptr<const CodeFolder> folder_;
  const uint32_t off_;
  CodeLock& lock_;  // of the code cache
  VmCounters& counters_;
  const int process_;
  std::mutex start_mutex_;
  std::optional<CodeKey> key_;
  std::string name_;
  CpuidTable cpuid_;
  std::optional<VcpuState> state_;  // of the first vCPU: what blocks are made by
  StoredBlocks blocks_;
  OwnedFd file_;  // that was read: while it is open no other has its inode
  std::mutex save_mutex_;
  size_t saved_new_ = 0;  // StoredBlocks::made_new() then
  std::mutex mutex_;
  std::condition_variable changed_;
  bool read_ = false;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace vireo::softkvm
