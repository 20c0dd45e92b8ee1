// SPDX-License-Identifier: Apache-2.0
// The words of `vireo run`: parsing values, option lists and the configuration file into plain config structs.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "kvm/accelerator.h"
#include "machine/machine.h"
#include "storage/jobs/throttle.h"

namespace vireo::cli {

// "a,b=c,d" after its first word: keys with values, "" for a bare key. `,,` stands for a comma.
struct WordList {
  std::string first;
  std::vector<std::pair<std::string, std::string>> rest;
};
Result<WordList> split_words(const std::string& text, const std::string& option);

Result<kvm::CodeFolder> parse_code_cache(const std::string& text);
Result<uint64_t> parse_size(const std::string& text, const std::string& option);  // 512M, 2G, 64K, plain: MiB
Result<uint64_t> parse_number(const std::string& text, const std::string& option, uint64_t least, uint64_t most);
Result<bool> parse_switch(const std::string& text, const std::string& option);  // on off yes no true false, "" is on
Result<std::vector<int>> parse_cpu_list(const std::string& text, const std::string& option);  // 0-3,6

struct DiskOptions {
  std::string path, format, serial, cache, key_file, id;
  storage::ThrottleConfig throttle;
  bool vhost_user = false;  // `path` is the socket of the process that has it
  bool readonly = false;
  std::optional<uint64_t> power_cut_seed;
  unsigned queues = 0;  // 0: one a vCPU, so that each is told of its own requests
};
struct NetOptions {
  enum class Kind { kUser, kTap, kNone } kind = Kind::kUser;
  struct Forward {
    bool udp = false;
    std::string host_address;
    uint16_t host_port = 0, guest_port = 0;
  };
  std::vector<Forward> forwards;
  std::string interface, mac;
  std::string tftp, boot_file;  // what the network offers to a machine that boots from it
  std::string rom;              // by which firmware does
  std::string text;  // as the user wrote it
};
struct SerialOptions {
  enum class Kind { kStdio, kFile, kNull, kPty } kind = Kind::kStdio;
  std::string path;
};

struct RunOptions {
  MachineConfig machine;
  kvm::AcceleratorWish accelerator = kvm::AcceleratorWish::kAuto;
  std::vector<DiskOptions> disks;
  std::vector<NetOptions> nets;
  SerialOptions serial;
  bool virtio_console = false;
  SerialOptions console;  // of the virtio console
  bool rng = false;
  kvm::CodeNames code_names;
  kvm::CodeFolder code_folder;
  std::string name;
  std::vector<std::string> qmp;  // paths of sockets
};

Result<DiskOptions> parse_disk(const std::string& text);
Result<NetOptions> parse_net(const std::string& text);
Result<SerialOptions> parse_serial(const std::string& text, const std::string& option);
Result<std::string> parse_qmp(const std::string& text);  // the socket's path
Result<MemoryConfig> parse_memory(const std::string& text);
Result<NumaConfig> parse_numa(const std::string& text);
// Finds the image, and makes the file of vars= from the image's own where there is none.
Result<FirmwareConfig> parse_firmware(const std::string& text);
std::optional<std::string> find_seabios();
// std or none; the display adapter's BIOS is found where the firmware's is.
Result<std::optional<VgaConfig>> parse_vga(const std::string& text);

// The command line after "run". An empty optional: help was printed.
Result<std::optional<RunOptions>> parse_run(int argc, char** argv);

}  // namespace vireo::cli
