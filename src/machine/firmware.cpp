// SPDX-License-Identifier: Apache-2.0
#include "machine/firmware.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/owned_fd.h"
#include "machine/machine.h"
#include "machine/smbios.h"
#include "machine/table_loader.h"

namespace vireo {
namespace {

constexpr uint64_t kFwCfg = 0x510, kDebugConsole = 0x402;
constexpr uint16_t kCom1 = 0x3f8;
// Sizes are in the directory before the contents are final: zeros behind the tables are nobody's, and command 0 of the script is none.
constexpr size_t kTablesUnit = 64 << 10, kLoaderUnit = 64 * TableLoader::kCommandSize;
constexpr char kRsdp[] = "etc/acpi/rsdp", kTables[] = "etc/acpi/tables", kLoader[] = "etc/table-loader";

template <class T>
std::vector<std::byte> bytes_of(const T& value) {
  auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}
std::vector<std::byte> bytes_of(const std::vector<uint8_t>& value) {
  auto bytes = std::as_bytes(std::span(value));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Result<std::unique_ptr<Firmware>> Firmware::create(Machine& machine, const FirmwareConfig& config, std::function<AcpiConfig()> tables) {
  std::unique_ptr<Firmware> firmware(new Firmware(machine));
  firmware->tables_ = std::move(tables);
  TRY_VOID(firmware->build(config));
  return firmware;
}

Firmware::~Firmware() {
  if (debug_) fclose(debug_);
}

Result<> Firmware::build(const FirmwareConfig& config) {
  Machine& m = machine_;
  if (m.memory().regions()[0].size < 4 << 20) return fail(ErrorKind::kInvalid, "--memory: firmware needs 4 MiB at least");
  flash_ = TRY(Flash::create(m, config.code, config.variables));
  std::array<unsigned, ShadowMemory::kSegments> slots;
  for (unsigned& slot : slots) slot = m.new_memory_slot();
  shadow_ = std::make_unique<ShadowMemory>(
      ShadowMemory::Config{m.memory().range(GuestAddress{ShadowMemory::kStart}, ShadowMemory::kSize), flash_->code()},
      [&m, slots](unsigned slot, uint64_t start, uint64_t size, const std::byte* host, bool read_only) {
        return m.set_memory(slots[slot], start, size, host, read_only ? KVM_MEM_READONLY : 0);
      },
      [&m](uint64_t start, uint64_t size) { m.memory().notice_write(GuestAddress{start}, size); });
  TRY_VOID(m.mmio().add(ShadowMemory::kStart, ShadowMemory::kSize, *shadow_));
  items_ = std::make_unique<FwCfg>(FwCfg::Pins{[&m](uint64_t at, std::span<std::byte> out) { return m.memory().read(GuestAddress{at}, out); },
                                               [&m](uint64_t at, std::span<const std::byte> in) { return m.memory().write(GuestAddress{at}, in); }});
  TRY_VOID(m.ports().add(kFwCfg, FwCfg::kPorts, *items_));
  if (!config.debug.empty()) {
    // A FIFO without a reader is not to be waited for; one with a slow reader is. Emptied by begin().
    OwnedFd fd(open(config.debug.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666));
    if (!fd.valid()) return fail_errno("--firmware debug=" + config.debug);
    fcntl(fd.get(), F_SETFL, 0);
    debug_ = fdopen(fd.get(), "w");
    if (!debug_) return fail_errno("--firmware debug=" + config.debug);
    fd.release();
    setvbuf(debug_, nullptr, _IOLBF, BUFSIZ);
    console_ = std::make_unique<DebugConsole>([this](std::span<const std::byte> text) { fwrite(text.data(), 1, text.size(), debug_); });
    TRY_VOID(m.ports().add(kDebugConsole, DebugConsole::kPorts, *console_));
  }
  describe(config);
  return describe_kernel();
}

Result<> Firmware::begin() {
  struct stat st;
  if (std::exchange(begun_, true)) return {};
  if (!debug_ || fstat(fileno(debug_), &st) || !S_ISREG(st.st_mode)) return {};  // a FIFO or a terminal has nothing to empty
  if (ftruncate(fileno(debug_), 0)) return fail_errno("--firmware debug=: emptying the file");
  return {};
}

// Of a Linux image the sectors for real mode are an item of their own, and say that a boot
// loader without a number (0xff at 0x210) has filled them in: OVMF enters a kernel that its keys do not know by Linux's own protocol, and does not say so
// itself, and Linux takes no initial RAM disk from nobody. What UEFI starts by itself does not look there.
Result<> Firmware::describe_kernel() {
  const BootConfig& boot = machine_.config().boot;
  if (boot.kernel.empty()) return {};
  kernel_ = TRY(FileView::open(boot.kernel, "--kernel"));
  if (!boot.initrd.empty()) initrd_ = TRY(FileView::open(boot.initrd, "--initrd"));
  const size_t setup = std::min<size_t>(linux_setup_size(kernel_), kernel_.bytes().size());
  auto item = [this](uint16_t size_key, uint16_t data_key, std::span<const std::byte> bytes) {
    items_->set<uint32_t>(size_key, static_cast<uint32_t>(bytes.size()));
    items_->set_view(data_key, bytes);
  };
  if (kernel_.bytes().size() > UINT32_MAX || initrd_.bytes().size() > UINT32_MAX) return fail(ErrorKind::kInvalid, "--kernel, --initrd: firmware takes files below 4 GiB");
  std::vector<std::byte> header(kernel_.bytes().begin(), kernel_.bytes().begin() + static_cast<ptrdiff_t>(setup));
  if (setup > 0x210) header[0x210] = std::byte{0xff};
  items_->set<uint32_t>(FwCfg::kSetupSize, static_cast<uint32_t>(setup));
  items_->set_bytes(FwCfg::kSetupData, std::move(header));
  item(FwCfg::kKernelSize, FwCfg::kKernelData, kernel_.bytes().subspan(setup));
  item(FwCfg::kInitrdSize, FwCfg::kInitrdData, initrd_.bytes());
  std::vector<std::byte> line(boot.append.size() + 1);
  memcpy(line.data(), boot.append.data(), boot.append.size());
  items_->set<uint32_t>(FwCfg::kCommandLineSize, static_cast<uint32_t>(line.size()));
  items_->set_bytes(FwCfg::kCommandLineData, std::move(line));
  return {};
}

void Firmware::describe(const FirmwareConfig& config) {
  Machine& m = machine_;
  const auto cpus = static_cast<uint16_t>(m.config().cpus);
  items_->set<uint64_t>(FwCfg::kRamSize, m.config().memory.size);
  items_->set<uint16_t>(FwCfg::kCpuCount, cpus);
  items_->set<uint16_t>(FwCfg::kMaxCpus, cpus);
  items_->set<uint16_t>(FwCfg::kBootMenu, config.boot_menu);
  items_->set<uint8_t>(FwCfg::kIrq0Override, 1);  // the PIT is on the IOAPIC's pin 2

  struct [[gnu::packed]] E820 {
    uint64_t start, size;
    uint32_t type;
  };
  std::vector<std::byte> map;
  for (const MemoryRegion& region : m.memory().regions()) {
    auto line = bytes_of(E820{raw(region.start), region.size, MemoryMapEntry::kRam});
    map.insert(map.end(), line.begin(), line.end());
  }
  items_->set_file("etc/e820", std::move(map));
  Smbios smbios = build_smbios(m.config().cpus, m.config().memory.size);
  items_->set_file("etc/smbios/smbios-anchor", bytes_of(smbios.entry));
  items_->set_file("etc/smbios/smbios-tables", bytes_of(smbios.table));
  if (config.serial_console) items_->set_file("etc/sercon-port", bytes_of(kCom1));
  describe_tables();
  // Firmware reads the script first, with PCI's addresses in place, and then the rest.
  items_->renew_before({kLoader}, [this] { describe_tables(); });
}

void Firmware::describe_tables() {
  AcpiBlob blob = build_acpi(tables_());
  TableLoader loader = TableLoader::of(blob, kRsdp, kTables);
  std::vector<uint8_t> script = loader.script();
  auto pad = [](std::vector<uint8_t>& bytes, size_t unit) { bytes.resize((bytes.size() + unit - 1) / unit * unit); };
  pad(blob.tables, kTablesUnit);
  pad(script, kLoaderUnit);
  items_->set_file(kRsdp, bytes_of(blob.rsdp));
  items_->set_file(kTables, bytes_of(blob.tables));
  items_->set_file(kLoader, bytes_of(script));
}

void Firmware::reset(ResetKind kind) {
  flash_->reset(kind);
  auto lock = machine_.ports().lock(*items_);
  items_->reset(kind);
}

}  // namespace vireo
