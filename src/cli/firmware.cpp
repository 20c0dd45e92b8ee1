// SPDX-License-Identifier: Apache-2.0
// --firmware and --vga: where distributions keep the images, and the file for a machine's variables, made from the one that comes with them.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <span>

#include "base/owned_fd.h"
#include "cli/options.h"

namespace vireo::cli {
namespace {

constexpr const char* kSeabios[] = {"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin"};
constexpr const char* kVgaBios[] = {"/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/qemu/vgabios-stdvga.bin"};
struct Ovmf {
  const char *code, *variables;
};
constexpr Ovmf kOvmf[] = {{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
                          {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
                          {"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
                          {"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"}};

// The same with system management mode, and variables with the keys of those who sign boot loaders.
constexpr Ovmf kSecureOvmf[] = {{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"},
                                {"/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"},
                                {"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"}};

std::span<const Ovmf> images_of(bool secure) { return secure ? std::span<const Ovmf>(kSecureOvmf) : kOvmf; }

bool there(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

// The variables that belong to an image of OVMF's, or "".
std::string variables_of(const std::string& code) {
  for (bool secure : {false, true})
    for (const Ovmf& known : images_of(secure))
      if (code == known.code && there(known.variables)) return known.variables;
  return {};
}

// Made under another name first: a machine that is killed meanwhile leaves no half of one.
Result<> make_variables(const std::string& path, const std::string& from) {
  const std::string what = "--firmware vars=" + path, half = path + ".new";
  std::ifstream in(from, std::ios::binary);
  std::ofstream out(half, std::ios::binary | std::ios::trunc);
  if (!in || !out) return fail_errno(what, errno ? errno : EIO);
  out << in.rdbuf();
  out.close();
  if (!in || !out || rename(half.c_str(), path.c_str())) {
    const int code = errno ? errno : EIO;
    unlink(half.c_str());
    return fail_errno(what, code);
  }
  return {};
}

}  // namespace

std::optional<std::string> find_seabios() {
  for (const char* path : kSeabios)
    if (there(path)) return path;
  return {};
}

Result<std::optional<VgaConfig>> parse_vga(const std::string& text) {
  const std::string option = "--vga";
  if (text == "none") return std::optional<VgaConfig>();
  if (text != "std" && !text.starts_with("std,")) return fail(ErrorKind::kInvalid, option + " " + text + ": std or none");
  WordList words = TRY(split_words(text, option));
  VgaConfig config;
  bool given = false;
  for (auto& [key, value] : words.rest) {
    if (key != "rom") return fail(ErrorKind::kInvalid, option + " " + text + ": unknown word " + key + " (see vireo run --help vga)");
    config.rom = value;  // rom=: none
    given = true;
  }
  for (const char* path : kVgaBios)
    if (!given && config.rom.empty() && there(path)) config.rom = path;
  return std::optional(config);
}

Result<FirmwareConfig> parse_firmware(const std::string& text) {
  const std::string option = "--firmware";
  WordList words = TRY(split_words(text, option));
  FirmwareConfig config;
  for (auto& [key, value] : words.rest)
    if (key == "secure") config.secure = TRY(parse_switch(value, option + " secure"));
  if (words.first == "seabios") {
    if (config.secure) return fail(ErrorKind::kInvalid, option + " seabios: secure=on is for UEFI");
    auto path = find_seabios();
    if (!path) return fail(ErrorKind::kNotFound, option + " seabios: not found (Debian's package seabios has it)");
    config.code = *path;
  } else if (words.first == "ovmf") {
    for (const Ovmf& known : images_of(config.secure))
      if (config.code.empty() && there(known.code)) config.code = known.code;
    if (config.code.empty()) return fail(ErrorKind::kNotFound, option + " ovmf: not found (Debian's package ovmf has it)");
  } else {
    config.code = words.first.starts_with("code=") ? words.first.substr(5) : words.first;
  }
  if (config.code.empty()) return fail(ErrorKind::kInvalid, option + " " + text + ": seabios, ovmf or a file is needed");
  for (auto& [key, value] : words.rest) {
    if (key == "vars" && !value.empty())
      config.variables = value;
    else if (key == "debug" && !value.empty())
      config.debug = value;
    else if (key == "menu")
      config.boot_menu = TRY(parse_switch(value, option + " menu"));
    else if (key == "sercon")
      config.serial_console = TRY(parse_switch(value, option + " sercon"));
    else if (key == "secure")
      continue;
    else
      return fail(ErrorKind::kInvalid, option + " " + text + ": unknown word " + key + (value.empty() ? "" : "=" + value) + " (see vireo run --help firmware)");
  }
  if (config.secure && config.variables.empty()) return fail(ErrorKind::kInvalid, option + " " + text + ": secure=on needs vars=FILE, where the keys are");
  struct stat st;
  if (!config.variables.empty() && stat(config.variables.c_str(), &st) && errno == ENOENT) {
    const std::string from = variables_of(config.code);
    if (from.empty()) return fail(ErrorKind::kNotFound, option + " vars=" + config.variables + ": no such file, and none is known to copy for " + config.code);
    TRY_VOID(make_variables(config.variables, from));
  }
  return config;
}

}  // namespace vireo::cli
