// SPDX-License-Identifier: Apache-2.0
#include "cli/devices.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "cli/backend_port.h"
#include "machine/board.h"
#include "machine/option_rom.h"
#include "network/tap.h"
#include "network/user.h"
#include "storage/file/fault_file.h"
#include "storage/image/open.h"
#include "storage/image_device.h"
#include "storage/raw.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vhost_user/blk.h"

namespace vireo::cli {
namespace {

// Without format= a disk's first bytes decide, which is safe only one way: a qcow2 file that is meant as one says so, but a
// raw disk's first bytes are its guest's to write. So a file is taken as qcow2 without being told only by its name, and one
// that begins as qcow2 under another name must be told what it is.
Result<std::string> disk_format(const DiskOptions& options) {
  if (options.format == "raw" && !options.key_file.empty()) return fail(ErrorKind::kInvalid, "key-file goes with format=luks and encrypted qcow2 images");
  if (options.format == "raw" || options.format == "qcow2" || options.format == "luks") return options.format;
  if (!options.format.empty()) return fail(ErrorKind::kUnsupported, "format " + options.format + " is not known (raw, qcow2 and luks are)");
  auto file = storage::open_file({.path = options.path, .read_only = true, .lock = false});
  if (!file) return "raw";  // the one who opens it says what is wrong
  auto probed = storage::probe_format(**file);
  if (!probed) return probed;
  const std::string& found = *probed;
  // Whoever brings a key has an encrypted image.
  if (!options.key_file.empty() && found == "raw") return fail(ErrorKind::kInvalid, "key-file is given, but it begins neither like a LUKS volume nor like a qcow2 image");
  if (found == "luks" && options.key_file.empty()) return "raw";  // the guest's own encryption
  if (found == "raw" || options.path.ends_with(".qcow2") || !options.key_file.empty()) return found;
  return fail(ErrorKind::kInvalid, "it begins like a qcow2 image: say format=qcow2, or format=raw if the guest wrote that");
}

Result<storage::LiveDisk*> add_disk(Machine& machine, const DiskOptions& options, const std::string& id) {
  const std::string& cache = options.cache;
  const bool direct = cache == "none" || cache == "directsync", no_flush = cache == "unsafe";
  storage::LiveDisk::Config config{.id = id, .path = options.path, .cache = cache.empty() ? "writeback" : cache, .throttle = options.throttle};
  config.open.direct = direct;
  config.open.no_flush = no_flush;
  std::unique_ptr<storage::LiveDisk> disk;
  const std::string format = TRY(disk_format(options));
  if (format == "raw" && !options.power_cut_seed) {
    storage::RawConfig raw{.path = options.path, .read_only = options.readonly, .direct = direct, .no_flush = no_flush};
    disk = TRY(storage::LiveDisk::create(std::move(config), TRY(storage::Raw::create(raw, machine.loop())), machine.loop()));
  } else {
    storage::OpenOptions open;
    open.format = format;
    if (!options.key_file.empty()) {
      auto key = storage::read_secret_file(options.key_file);
      if (!key) return std::unexpected(std::move(key).error().within("key-file"));
      config.open.any_key = *key;
      open.any_key = std::move(*key);
    }
    open.read_only = options.readonly;
    open.direct = direct;
    open.no_flush = no_flush;
    if (auto seed = options.power_cut_seed)
      open.wrap = [seed = *seed](std::unique_ptr<storage::File> file) { return std::make_unique<storage::FaultFile>(std::move(file), seed, seed % 4 * 25); };
    config.open.wrap = open.wrap;
    open.note = [](const std::string& line) { log(LogLevel::kWarning, "disk: repairing: %s", line.c_str()); };
    auto image = storage::open_image(options.path, std::move(open));
    if (!image && options.key_file.empty() && image.error().message.ends_with("is required for cipher"))
      return fail(ErrorKind::kInvalid, "it is encrypted: say key-file=FILE, the file with its password");
    if (!image) return std::unexpected(std::move(image).error());
    disk = TRY(storage::LiveDisk::create(std::move(config), std::move(*image), machine.loop()));
  }
  virtio::BlkConfig blk{.serial = options.serial,
                        .queues = static_cast<uint16_t>(options.queues ? options.queues : std::min(machine.config().cpus, 64u)),
                        .write_cache = cache != "writethrough" && cache != "directsync",
                        .name = options.path};
  storage::LiveDisk* live = disk.get();
  auto device = TRY(virtio::Blk::create(blk, {machine.loop()}, std::move(disk)));
  live->set_on_resize([d = device.get()] { d->disk_resized(); });
  TRY_VOID(machine.board().add(std::move(device)));
  return live;
}

Result<> add_vhost_user_disk(Machine& machine, const DiskOptions& options) {
  virtio::vhost_user::BlkConfig config{.path = options.path, .queues = options.queues ? options.queues : std::min(machine.config().cpus, 64u)};
  return machine.board().add(TRY(virtio::vhost_user::Blk::create(config, {machine.loop(), machine.memory()})));
}

// The option's name is said before, which is the file's.
Error named_once(Error error, const std::string& path) {
  for (const std::string& start : {"Could not open '" + path + "': ", "disk '" + path + "': ", "disk '" + path + "' is "})
    while (error.message.starts_with(start)) error.message.erase(0, start.size());
  return std::move(error).within("--disk " + path);
}

// Spec: IEEE 802, a unicast address in the usual notation.
Result<virtio::Mac> parse_mac(const std::string& text) {
  virtio::Mac mac{};
  unsigned bytes[6];
  int end = 0;
  if (sscanf(text.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%n", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4], &bytes[5], &end) != 6 ||
      static_cast<size_t>(end) != text.size() || (bytes[0] & 1))
    return fail(ErrorKind::kInvalid, "mac " + text + ": not a unicast hardware address");
  for (size_t i = 0; i < mac.size(); i++) mac[i] = static_cast<uint8_t>(bytes[i]);
  return mac;
}

// iPXE for this card, as distributions have it: what a PC's BIOS boots from the network by. UEFI has a driver of its own.
constexpr const char* kBootRoms[] = {"/usr/lib/ipxe/qemu/pxe-virtio.rom", "/usr/share/ipxe/qemu/pxe-virtio.rom", "/usr/share/qemu/pxe-virtio.rom"};
constexpr uint64_t kMostBootRom = 1 << 20;

Result<std::vector<std::byte>> boot_rom(const Machine& machine, const NetOptions& options) {
  std::string path = options.rom;
  if (path.empty() && machine.config().firmware && !options.boot_file.empty())
    for (const char* known : kBootRoms)
      if (path.empty() && access(known, R_OK) == 0) path = known;
  if (path.empty()) return std::vector<std::byte>{};
  return read_option_rom(path, "rom=" + path, kMostBootRom);
}

Result<> add_net(Machine& machine, const NetOptions& options, unsigned index) {
  std::unique_ptr<network::Backend> backend;
  if (options.kind == NetOptions::Kind::kTap) {
    if (options.interface.empty()) return fail(ErrorKind::kInvalid, "tap needs ifname=NAME");
    backend = TRY(network::Tap::create({.name = options.interface}, machine.loop()));
  } else {
    network::UserConfig user;
    for (const NetOptions::Forward& f : options.forwards)
      user.forwards.push_back({.udp = f.udp, .host_address = f.host_address, .host_port = f.host_port, .guest_address = {}, .guest_port = f.guest_port});
    struct stat st;
    if (!options.tftp.empty() && stat(options.tftp.c_str(), &st)) return fail_errno("tftp=" + options.tftp);
    if (!options.tftp.empty() && !S_ISDIR(st.st_mode)) return fail(ErrorKind::kInvalid, "tftp=" + options.tftp + ": not a folder");
    user.tftp_directory = options.tftp;
    user.boot_file = options.boot_file;
    backend = TRY(network::User::create(user, machine.loop()));
  }
  // Locally administered addresses of our own when the user gives none; alike on every start, so that guests keep their names.
  virtio::NetConfig net{.mac = {0x52, 0x54, 0x00, 0x56, 0x49, static_cast<uint8_t>(index + 1)}};
  if (!options.mac.empty()) net.mac = TRY(parse_mac(options.mac));
  auto rom = TRY(boot_rom(machine, options));
  auto device = TRY(virtio::Net::create(net, {machine.loop()}, std::move(backend)));
  return machine.board().add(std::move(device), std::move(rom));
}

}  // namespace

Result<AddedDevices> add_devices(Machine& machine, const RunOptions& options, CharBackend* console) {
  AddedDevices added;
  for (size_t i = 0; i < options.disks.size(); i++) {
    const DiskOptions& disk = options.disks[i];
    if (disk.vhost_user) {
      if (auto result = add_vhost_user_disk(machine, disk); !result) return std::unexpected(std::move(result).error().within("--disk vhost-user=" + disk.path));
      continue;
    }
    const std::string id = disk.id.empty() ? "disk" + std::to_string(i) : disk.id;
    for (storage::LiveDisk* other : added.disks)
      if (other->config().id == id) return fail(ErrorKind::kInvalid, "--disk " + disk.path + ": id=" + id + " is another disk's");
    auto result = add_disk(machine, disk, id);
    if (!result) return std::unexpected(named_once(std::move(result).error(), disk.path));
    added.disks.push_back(*result);
  }
  for (unsigned i = 0; i < options.nets.size(); i++)
    if (auto result = add_net(machine, options.nets[i], i); !result) return std::unexpected(std::move(result).error().within("--net " + options.nets[i].text));
  if (options.rng) {
    auto rng = TRY(virtio::Rng::create({}, {machine.loop(), machine.loop(), machine.loop()}));
    TRY_VOID(machine.board().add(std::move(rng)));
  }
  if (console) {
    std::vector<std::unique_ptr<virtio::ConsolePort>> ends;
    ends.push_back(std::make_unique<BackendPort>(*console));
    auto device = TRY(virtio::Console::create({}, {machine.loop()}, std::move(ends)));
    added.console = device.get();
    TRY_VOID(machine.board().add(std::move(device)));
  }
  return added;
}

}  // namespace vireo::cli
