// SPDX-License-Identifier: Apache-2.0
// The options of `vireo run`, on the command line or as `name = value` lines of a configuration file; the command line wins.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <set>

#include "cli/help.h"
#include "cli/option_words.h"
#include "cli/options.h"
#include "cli/qemu_words.h"

namespace vireo::cli {
namespace {

struct Raw {
  std::string kernel, initrd, append, memory, cpus, cpu, affinity, board, accel, serial, console, protocol, debug_exit, config, jitdump, guest_symbols, code_cache, firmware, name, vga, hpet;
  std::vector<std::string> disks, nets, numa, qmp;
  bool rng = false, no_reboot = false, testdev = false, virtio_console = false, perf_map = false;
};

std::string trim(const std::string& text) {
  size_t first = text.find_first_not_of(" \t\r"), last = text.find_last_not_of(" \t\r");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

// Turns the file's lines into words of a command line, but not those in `given`.
Result<std::vector<std::string>> read_config(const std::string& path, const std::set<std::string>& given) {
  std::ifstream in(path);
  if (!in) return fail_errno("--config " + path, errno ? errno : ENOENT);
  in.peek();
  if (in.bad()) return fail_errno("--config " + path, errno ? errno : EIO);  // a folder
  static const std::set<std::string> kSwitches{"rng", "no-reboot", "testdev", "perf-map"};
  std::vector<std::string> words;
  std::string line;
  for (unsigned number = 1; std::getline(in, line); number++) {
    line = trim(line);
    if (line.empty() || line[0] == '#') continue;
    size_t equals = line.find('=');
    std::string name = trim(line.substr(0, equals)), value = equals == std::string::npos ? "" : trim(line.substr(equals + 1));
    std::string where = "--config " + path + " line " + std::to_string(number);
    if (name == "config" || name.empty()) return fail(ErrorKind::kInvalid, where + ": not a `name = value` line");
    if (given.contains(name)) continue;
    if (kSwitches.contains(name)) {
      if (TRY(parse_switch(value, where + ": " + name))) words.push_back("--" + name);
      continue;
    }
    if (equals == std::string::npos) return fail(ErrorKind::kInvalid, where + ": " + name + " has no value");
    words.push_back("--" + name + "=" + value);
  }
  return words;
}

void declare(CLI::App& app, Raw& raw) {
  app.set_help_flag();
  app.add_option("--kernel", raw.kernel);
  app.add_option("--initrd", raw.initrd);
  app.add_option("--append", raw.append);
  app.add_option("--boot-protocol", raw.protocol);
  app.add_option("--memory", raw.memory);
  app.add_option("--numa", raw.numa)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
  app.add_option("--cpus", raw.cpus);
  app.add_option("--cpu", raw.cpu);
  app.add_option("--cpu-affinity", raw.affinity);
  app.add_option("--board", raw.board);
  app.add_option("--firmware,--bios", raw.firmware);
  app.add_option("--vga", raw.vga);
  app.add_option("--hpet", raw.hpet);
  app.add_option("--accel", raw.accel);
  app.add_option("--disk", raw.disks)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
  app.add_option("--net", raw.nets)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
  app.add_option("--serial", raw.serial);
  app.add_option("--console", raw.console);
  app.add_flag("--rng", raw.rng);
  app.add_flag("--no-reboot", raw.no_reboot);
  app.add_flag("--testdev", raw.testdev);
  app.add_option("--debug-exit", raw.debug_exit)->expected(0, 1);
  app.add_flag("--perf-map", raw.perf_map);
  app.add_option("--jitdump", raw.jitdump);
  app.add_option("--guest-symbols", raw.guest_symbols);
  app.add_option("--code-cache", raw.code_cache);
  app.add_option("--name", raw.name);
  app.add_option("--qmp", raw.qmp)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
  app.add_option("--config", raw.config);
}

Result<> parse_words(std::vector<std::string> words, Raw& raw, std::set<std::string>& given) {
  CLI::App app;
  declare(app, raw);
  TRY_VOID(cli::parse_words(app, std::move(words), "vireo run", instead_of_qemu));
  for (const CLI::Option* option : app.get_options())
    if (option->count()) given.insert(option->get_lnames().begin(), option->get_lnames().end());
  return {};
}

// An empty word would be the default without a word said.
Result<> refuse_empty(const Raw& raw, const std::set<std::string>& given) {
  const std::pair<const char*, const std::string*> words[] = {{"kernel", &raw.kernel}, {"initrd", &raw.initrd}, {"memory", &raw.memory},          {"cpus", &raw.cpus},
                                                              {"board", &raw.board},   {"accel", &raw.accel},   {"boot-protocol", &raw.protocol}, {"name", &raw.name},
                                                              {"serial", &raw.serial}, {"config", &raw.config}, {"cpu-affinity", &raw.affinity}};
  for (const auto& [name, value] : words)
    if (given.contains(name) && value->empty()) return fail(ErrorKind::kInvalid, std::string("--") + name + ": is empty");
  return {};
}

// Without a kernel a PC starts from its firmware, without a word about which from SeaBIOS. A kernel by way of firmware is UEFI's to start.
Result<> choose_firmware(const Raw& raw, bool given, MachineConfig& m) {
  if (given) m.firmware = TRY(parse_firmware(raw.firmware));
  if (!raw.kernel.empty()) {
    if (!given) return {};
    if (raw.firmware == "seabios" || raw.firmware.starts_with("seabios,"))
      return fail(ErrorKind::kUnsupported, "--kernel " + raw.kernel + ": SeaBIOS starts none; without --firmware it starts by itself");
    if (!raw.protocol.empty()) return fail(ErrorKind::kInvalid, "--boot-protocol " + raw.protocol + ": with --firmware a kernel is started as UEFI does");
    if (m.board != MachineConfig::BoardKind::kQ35) return fail(ErrorKind::kInvalid, "--board " + raw.board + ": has no firmware");
    return {};
  }
  if (!raw.initrd.empty() || !raw.append.empty() || !raw.protocol.empty())
    return fail(ErrorKind::kInvalid, "--kernel is missing, and --initrd, --append and --boot-protocol go with it");
  if (m.board != MachineConfig::BoardKind::kQ35) return fail(ErrorKind::kInvalid, "--board " + raw.board + ": has no firmware; --kernel is missing");
  if (given) return {};
  auto seabios = find_seabios();
  if (!seabios) return fail(ErrorKind::kInvalid, "--kernel is missing, and there is no firmware here to start from (Debian's packages seabios and ovmf; see vireo run --help firmware)");
  m.firmware = FirmwareConfig{.code = *seabios};
  return {};
}

Result<RunOptions> convert(const Raw& raw, const std::set<std::string>& given) {
  RunOptions run;
  MachineConfig& m = run.machine;
  TRY_VOID(refuse_empty(raw, given));
  m.boot = {raw.kernel, raw.initrd, raw.append};
  if (raw.protocol == "linux64")
    m.boot.protocol = BootProtocol::kLinux64;
  else if (raw.protocol == "linux32")
    m.boot.protocol = BootProtocol::kLinux32;
  else if (raw.protocol == "pvh")
    m.boot.protocol = BootProtocol::kPvh;
  else if (raw.protocol == "multiboot")
    m.boot.protocol = BootProtocol::kMultiboot;
  else if (!raw.protocol.empty() && raw.protocol != "auto")
    return fail(ErrorKind::kInvalid, "--boot-protocol " + raw.protocol + ": auto, linux64, linux32, pvh or multiboot");
  m.memory = TRY(parse_memory(raw.memory.empty() ? "512M" : raw.memory));
  for (const std::string& node : raw.numa) m.numa.push_back(TRY(parse_numa(node)));
  if (!raw.cpus.empty()) m.cpus = static_cast<unsigned>(TRY(parse_number(raw.cpus, "--cpus", 1, 4096)));
  if (given.contains("cpu")) m.cpu = TRY(parse_cpu_model(raw.cpu));
  if (!raw.affinity.empty()) m.cpu_affinity = TRY(parse_cpu_list(raw.affinity, "--cpu-affinity"));
  if (raw.board == "microvm")
    m.board = MachineConfig::BoardKind::kMicrovm;
  else if (!raw.board.empty() && raw.board != "q35")
    return fail(ErrorKind::kInvalid, "--board " + raw.board + ": q35 or microvm");
  TRY_VOID(choose_firmware(raw, given.contains("firmware"), m));
  if (given.contains("vga")) m.vga = TRY(parse_vga(raw.vga));
  if (m.vga && m.board != MachineConfig::BoardKind::kQ35) return fail(ErrorKind::kInvalid, "--vga " + raw.vga + ": --board " + raw.board + " has no screen");
  // A kernel that is started directly has better clocks, and would take an HPET before them.
  m.hpet = given.contains("hpet") ? TRY(parse_switch(raw.hpet, "--hpet")) : m.firmware.has_value();
  if (m.hpet && m.board != MachineConfig::BoardKind::kQ35) return fail(ErrorKind::kInvalid, "--hpet " + raw.hpet + ": --board " + raw.board + " has none");
  if (raw.accel == "kvm")
    run.accelerator = kvm::AcceleratorWish::kKvm;
  else if (raw.accel == "soft")
    run.accelerator = kvm::AcceleratorWish::kSoft;
  else if (!raw.accel.empty() && raw.accel != "auto")
    return fail(ErrorKind::kInvalid, "--accel " + raw.accel + ": auto, kvm or soft");
  for (const std::string& disk : raw.disks) {
    run.disks.push_back(TRY(parse_disk(disk)));
    m.shared_memory |= run.disks.back().vhost_user;
  }
  for (const std::string& net : raw.nets) {
    NetOptions options = TRY(parse_net(net));
    if (options.kind != NetOptions::Kind::kNone) run.nets.push_back(options);
  }
  if (!raw.serial.empty()) run.serial = TRY(parse_serial(raw.serial, "--serial"));
  if (!raw.console.empty()) {
    run.virtio_console = true;
    run.console = TRY(parse_serial(raw.console, "--console"));
    if (run.console.kind == SerialOptions::Kind::kStdio) {
      if (raw.serial == "stdio") return fail(ErrorKind::kInvalid, "--console stdio: --serial has it already");
      if (raw.serial.empty()) run.serial.kind = SerialOptions::Kind::kNull;
    }
  }
  run.rng = raw.rng;
  run.name = raw.name;
  for (const std::string& qmp : raw.qmp) run.qmp.push_back(TRY(parse_qmp(qmp)));
  run.code_names = {raw.perf_map, raw.jitdump, raw.guest_symbols};
  for (const auto& [option, value] : {std::pair("jitdump", &raw.jitdump), std::pair("guest-symbols", &raw.guest_symbols)})
    if (given.contains(option) && value->empty()) return fail(ErrorKind::kInvalid, std::string("--") + option + ": a name is missing");
  if (!raw.guest_symbols.empty() && !raw.perf_map && raw.jitdump.empty())
    return fail(ErrorKind::kInvalid, "--guest-symbols " + raw.guest_symbols + ": for --perf-map or --jitdump, and neither is given");
  if (given.contains("code-cache")) run.code_folder = TRY(parse_code_cache(raw.code_cache));
  m.reboot = !raw.no_reboot;
  m.test_device = raw.testdev;
  if (given.contains("debug-exit"))
    m.debug_exit = raw.debug_exit.empty() ? 0xf4 : static_cast<uint16_t>(TRY(parse_number(raw.debug_exit, "--debug-exit", 1, 0xfffc)));
  m.rtc_start = time(nullptr);
  return run;
}

}  // namespace

Result<std::optional<RunOptions>> parse_run(int argc, char** argv) {
  std::vector<std::string> words(argv, argv + argc);
  for (size_t i = 0; i < words.size(); i++) {
    if (words[i] != "--help" && words[i] != "-h" && !words[i].starts_with("--help=")) continue;
    std::string topic = words[i].starts_with("--help=") ? words[i].substr(7) : i + 1 < words.size() ? words[i + 1] : "";
    TRY_VOID(print_run_help(topic));
    return std::optional<RunOptions>();
  }
  Raw raw;
  std::set<std::string> given;
  TRY_VOID(parse_words(words, raw, given));
  if (!raw.config.empty()) {
    auto lines = TRY(read_config(raw.config, given));
    std::string config = raw.config;
    auto result = parse_words(lines, raw, given);
    if (!result) return std::unexpected(std::move(result).error().within("--config " + config));
  }
  return TRY(convert(raw, given));
}

}  // namespace vireo::cli
