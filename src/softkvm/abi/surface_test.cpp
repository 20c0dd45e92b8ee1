// SPDX-License-Identifier: Apache-2.0
// The surface of the ABI: the same calls, right and wrong ones, on softkvm and on the kernel's module; results must be the same. Where they
// are not, the difference stands in kDifferences with its reason.
#include <sys/eventfd.h>

#include <functional>
#include <map>
#include <string>

#include "softkvm/abi/backend_test.h"

namespace vireo::softkvm::test {
namespace {

using Results = std::vector<std::pair<std::string, long>>;

class Log {
 public:
  void operator()(std::string what, long result) { results.emplace_back(std::move(what), result); }
  Results results;
};

constexpr uintptr_t kBad = 8;  // a pointer to nothing

struct Difference {
  const char* call;
  long softkvm, kernel;
  const char* reason;
};

const Difference kDifferences[] = {
    {"SET_MP_STATE 9 (irqchip)", -22, 0, "AP_RESET_HOLD: only guests of SEV-ES are ever in it"},
    {"SET_MSRS PAT type 2 (irqchip)", 0, 1, "kvm_pvm takes any PAT; type 2 is reserved (SDM vol 3, 12.12.2)"},
    {"SET_MSRS PAT type 2 (no irqchip)", 0, 1, "the same"},
    {"other address space", 0, -22, "this machine's /dev/kvm has no SMM"},
    {"SET_VCPU_EVENTS smm (no irqchip)", 0, -22, "the same"},
    {"SET_VCPU_EVENTS smm (irqchip)", 0, -22, "the same"},
    {"SET_VCPU_EVENTS smi (no irqchip)", 0, -22, "the same"},
    {"SET_VCPU_EVENTS smi (irqchip)", 0, -22, "the same"},
    {"SMI (no irqchip)", 0, -25, "the same"},
    {"SMI (irqchip)", 0, -25, "the same"},
    {"SET_MP_STATE 2 (irqchip)", -22, 0, "the same: with an SMI pending a vCPU cannot be waiting for a SIPI"},
    {"SET_MP_STATE 4 (irqchip)", -22, 0, "the same"},
    {"capability 129", 3, 15, "X2APIC_API: suppressing EOI broadcasts (Linux 6.18) is not there"},
};

void compare(const std::function<void(const Backend&, Log&)>& calls) {
  Log ours;
  calls(kSoftkvm, ours);
  if (!kernel_present()) return;
  Log theirs;
  calls(kKernel, theirs);
  ASSERT_EQ(ours.results.size(), theirs.results.size());
  for (size_t i = 0; i < ours.results.size(); i++) {
    const auto& [what, result] = ours.results[i];
    const long kernel = theirs.results[i].second;
    if (result == kernel) continue;
    const Difference* known = nullptr;
    for (const Difference& d : kDifferences) {
      if (what == d.call && result == d.softkvm && kernel == d.kernel) known = &d;
    }
    EXPECT_NE(known, nullptr) << what << ": softkvm " << result << ", kernel " << kernel;
  }
}

uintptr_t at(const void* p) { return reinterpret_cast<uintptr_t>(p); }

TEST(Surface, System) {
  compare([](const Backend& backend, Log& log) {
    Handle s(backend, backend.open());
    log("GET_API_VERSION", s(KVM_GET_API_VERSION));
    log("GET_API_VERSION 1", s(KVM_GET_API_VERSION, 1ul));
    log("GET_VCPU_MMAP_SIZE", s(KVM_GET_VCPU_MMAP_SIZE));
    log("GET_VCPU_MMAP_SIZE 1", s(KVM_GET_VCPU_MMAP_SIZE, 1ul));
    log("CREATE_VM type 99", s(KVM_CREATE_VM, 99ul));
    log("unknown", s(_IO(KVMIO, 0xfe)));
    log("KVM_RUN", s(KVM_RUN));
    log("CHECK_EXTENSION unknown", s(KVM_CHECK_EXTENSION, 5000ul));
    log("CHECK_EXTENSION huge", s(KVM_CHECK_EXTENSION, ~0ul));
    log("GET_SUPPORTED_CPUID bad", s(KVM_GET_SUPPORTED_CPUID, kBad));
    CpuidList list(4);
    list.header()->nent = 0;
    log("GET_SUPPORTED_CPUID 0", s(KVM_GET_SUPPORTED_CPUID, list.header()));
    list.header()->nent = 4;
    log("GET_SUPPORTED_CPUID 4", s(KVM_GET_SUPPORTED_CPUID, list.header()));
    log("GET_MSR_INDEX_LIST bad", s(KVM_GET_MSR_INDEX_LIST, kBad));
    kvm_msr_list msrs{};
    log("GET_MSR_INDEX_LIST 0", s(KVM_GET_MSR_INDEX_LIST, &msrs));
    log("GET_MSR_INDEX_LIST 0 tells how many", msrs.nmsrs > 10);
    msrs.nmsrs = 0;
    log("GET_MSR_FEATURE_INDEX_LIST 0", s(KVM_GET_MSR_FEATURE_INDEX_LIST, &msrs));
    MsrList many(300);
    many.header()->nmsrs = 256;
    log("GET_MSRS 256", s(KVM_GET_MSRS, many.header()));
    many.header()->nmsrs = 1, many.entries()->index = 0xdeadbeef;
    log("GET_MSRS of none", s(KVM_GET_MSRS, many.header()));
    many.header()->nmsrs = 0;
    log("GET_MSRS 0", s(KVM_GET_MSRS, many.header()));
    log("GET_MSRS bad", s(KVM_GET_MSRS, kBad));
    log("X86_GET_MCE_CAP_SUPPORTED bad", s(KVM_X86_GET_MCE_CAP_SUPPORTED, kBad));
    kvm_device_attr attribute{};
    uint64_t value = 0;
    attribute.addr = at(&value);
    log("HAS_DEVICE_ATTR XCOMP", s(KVM_HAS_DEVICE_ATTR, &attribute));
    log("GET_DEVICE_ATTR XCOMP", s(KVM_GET_DEVICE_ATTR, &attribute));
    attribute.addr = kBad;
    log("GET_DEVICE_ATTR XCOMP bad", s(KVM_GET_DEVICE_ATTR, &attribute));
    attribute.attr = 77;
    log("HAS_DEVICE_ATTR 77", s(KVM_HAS_DEVICE_ATTR, &attribute));
    attribute.group = 5;
    log("GET_DEVICE_ATTR group 5", s(KVM_GET_DEVICE_ATTR, &attribute));
  });
}

TEST(Surface, Memory) {
  compare([](const Backend& backend, Log& log) {
    Machine m(backend, Machine::Irqchip::kNone, false);
    auto* host = static_cast<uint8_t*>(::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    auto set = [&](const char* what, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, uint64_t hva) {
      kvm_userspace_memory_region r{slot, flags, gpa, size, hva};
      log(what, m.vm(KVM_SET_USER_MEMORY_REGION, &r));
    };
    log("bad pointer", m.vm(KVM_SET_USER_MEMORY_REGION, kBad));
    set("odd gpa", 1, 0, 0x200001, 0x1000, at(host));
    set("odd size", 1, 0, 0x200000, 0x1001, at(host));
    set("odd host", 1, 0, 0x200000, 0x1000, at(host) + 8);
    set("host of the kernel", 1, 0, 0x200000, 0x1000, 0xffff800000000000);
    set("wrap", 1, 0, ~0xfffull, 0x2000, at(host));
    set("overlap", 1, 0, 0x1000, 0x1000, at(host));
    set("unknown flag", 1, 0x80, 0x200000, 0x1000, at(host));
    set("slot too high", 32764, 0, 0x200000, 0x1000, at(host));
    set("other address space", 0x10001, 0, 0x200000, 0x1000, at(host));
    set("delete what is not there", 9, 0, 0x200000, 0, at(host));
    set("new", 1, 0, 0x200000, 0x10000, at(host));
    set("the same", 1, 0, 0x200000, 0x10000, at(host));
    set("other size", 1, 0, 0x200000, 0x20000, at(host));
    set("other host", 1, 0, 0x200000, 0x10000, at(host) + 0x1000);
    set("to read-only", 1, KVM_MEM_READONLY, 0x200000, 0x10000, at(host));
    set("with log", 1, KVM_MEM_LOG_DIRTY_PAGES, 0x200000, 0x10000, at(host));
    set("move", 1, KVM_MEM_LOG_DIRTY_PAGES, 0x300000, 0x10000, at(host));
    set("move onto another", 1, KVM_MEM_LOG_DIRTY_PAGES, 0x0, 0x10000, at(host));
    uint64_t bits[8] = {};
    kvm_dirty_log dirty{};
    dirty.slot = 1, dirty.dirty_bitmap = bits;
    log("GET_DIRTY_LOG", m.vm(KVM_GET_DIRTY_LOG, &dirty));
    dirty.dirty_bitmap = reinterpret_cast<void*>(kBad);
    log("GET_DIRTY_LOG bad", m.vm(KVM_GET_DIRTY_LOG, &dirty));
    dirty.slot = 0;
    log("GET_DIRTY_LOG of a slot without", m.vm(KVM_GET_DIRTY_LOG, &dirty));
    dirty.slot = 5;
    log("GET_DIRTY_LOG of no slot", m.vm(KVM_GET_DIRTY_LOG, &dirty));
    dirty.slot = 40000;
    log("GET_DIRTY_LOG of a slot too high", m.vm(KVM_GET_DIRTY_LOG, &dirty));
    kvm_clear_dirty_log clear{};
    clear.slot = 1, clear.num_pages = 16, clear.dirty_bitmap = bits;
    log("CLEAR_DIRTY_LOG", m.vm(KVM_CLEAR_DIRTY_LOG, &clear));
    clear.first_page = 3;
    log("CLEAR_DIRTY_LOG odd", m.vm(KVM_CLEAR_DIRTY_LOG, &clear));
    clear.first_page = 64;
    log("CLEAR_DIRTY_LOG beyond", m.vm(KVM_CLEAR_DIRTY_LOG, &clear));
    clear.first_page = 0, clear.num_pages = 17;
    log("CLEAR_DIRTY_LOG too many", m.vm(KVM_CLEAR_DIRTY_LOG, &clear));
    clear.num_pages = 8;
    log("CLEAR_DIRTY_LOG part of a word", m.vm(KVM_CLEAR_DIRTY_LOG, &clear));
    kvm_userspace_memory_region2 two{};
    two.slot = 2, two.guest_phys_addr = 0x400000, two.memory_size = 0x1000, two.userspace_addr = at(host) + 0x40000;
    log("REGION2", m.vm(KVM_SET_USER_MEMORY_REGION2, &two));
    two.memory_size = 0;
    log("REGION2 delete", m.vm(KVM_SET_USER_MEMORY_REGION2, &two));
    set("delete", 1, 0, 0, 0, 0);
    log("SET_NR_MMU_PAGES 63", m.vm(KVM_SET_NR_MMU_PAGES, 63ul));
    log("SET_NR_MMU_PAGES 64", m.vm(KVM_SET_NR_MMU_PAGES, 64ul));
    log("GET_NR_MMU_PAGES", m.vm(KVM_GET_NR_MMU_PAGES));
    ::munmap(host, 1 << 20);
  });
}

TEST(Surface, VmWithoutIrqchip) {
  compare([](const Backend& backend, Log& log) {
    Machine m(backend, Machine::Irqchip::kNone, false);
    kvm_irqchip chip{};
    log("GET_IRQCHIP", m.vm(KVM_GET_IRQCHIP, &chip));
    log("SET_IRQCHIP", m.vm(KVM_SET_IRQCHIP, &chip));
    kvm_irq_level level{};
    log("IRQ_LINE", m.vm(KVM_IRQ_LINE, &level));
    log("IRQ_LINE_STATUS", m.vm(KVM_IRQ_LINE_STATUS, &level));
    kvm_msi msi{};
    log("SIGNAL_MSI", m.vm(KVM_SIGNAL_MSI, &msi));
    kvm_irq_routing routing{};
    log("SET_GSI_ROUTING", m.vm(KVM_SET_GSI_ROUTING, &routing));
    kvm_irqfd irqfd{};
    irqfd.fd = static_cast<uint32_t>(-1);
    log("IRQFD", m.vm(KVM_IRQFD, &irqfd));
    kvm_pit_config config{};
    log("CREATE_PIT2", m.vm(KVM_CREATE_PIT2, &config));
    kvm_pit_state2 pit{};
    log("GET_PIT2", m.vm(KVM_GET_PIT2, &pit));
    log("SET_PIT2", m.vm(KVM_SET_PIT2, &pit));
    log("GET_PIT", m.vm(KVM_GET_PIT, &pit));
    log("SET_PIT", m.vm(KVM_SET_PIT, &pit));
    kvm_reinject_control reinject{};
    log("REINJECT_CONTROL", m.vm(KVM_REINJECT_CONTROL, &reinject));
    log("SET_TSS_ADDR", m.vm(KVM_SET_TSS_ADDR, 0xfffbd000ul));
    log("SET_TSS_ADDR high", m.vm(KVM_SET_TSS_ADDR, 0xffffe000ul));
    log("SET_TSS_ADDR last", m.vm(KVM_SET_TSS_ADDR, 0xffffd000ul));
    log("SET_TSS_ADDR wide", m.vm(KVM_SET_TSS_ADDR, 0x100000000ul));
    uint64_t address = 0xfeffc000;
    log("SET_IDENTITY_MAP_ADDR", m.vm(KVM_SET_IDENTITY_MAP_ADDR, &address));
    log("SET_IDENTITY_MAP_ADDR bad", m.vm(KVM_SET_IDENTITY_MAP_ADDR, kBad));
    log("SET_BOOT_CPU_ID", m.vm(KVM_SET_BOOT_CPU_ID, 0ul));
    kvm_clock_data clock{};
    log("GET_CLOCK", m.vm(KVM_GET_CLOCK, &clock));
    log("GET_CLOCK bad", m.vm(KVM_GET_CLOCK, kBad));
    clock = {};
    log("SET_CLOCK", m.vm(KVM_SET_CLOCK, &clock));
    clock.flags = 1;
    log("SET_CLOCK flag 1", m.vm(KVM_SET_CLOCK, &clock));
    clock.flags = 2;
    log("SET_CLOCK flag 2", m.vm(KVM_SET_CLOCK, &clock));
    clock.flags = 4;
    log("SET_CLOCK flag 4", m.vm(KVM_SET_CLOCK, &clock));
    clock.flags = 8;
    log("SET_CLOCK flag 8", m.vm(KVM_SET_CLOCK, &clock));
    kvm_create_device device{};
    device.type = 77;
    log("CREATE_DEVICE 77", m.vm(KVM_CREATE_DEVICE, &device));
    log("CREATE_DEVICE bad", m.vm(KVM_CREATE_DEVICE, kBad));
    log("unknown", m.vm(_IO(KVMIO, 0xfe)));
    log("other type", m.vm(_IO('x', 1)));
    log("KVM_RUN", m.vm(KVM_RUN));
    log("SET_TSC_KHZ 0", m.vm(KVM_SET_TSC_KHZ, 0ul));
    kvm_coalesced_mmio_zone zone{};
    zone.addr = 0xa0000, zone.size = 0x1000, zone.pio = 2;
    log("REGISTER_COALESCED_MMIO pio 2", m.vm(KVM_REGISTER_COALESCED_MMIO, &zone));
    zone.pio = 0;
    log("REGISTER_COALESCED_MMIO", m.vm(KVM_REGISTER_COALESCED_MMIO, &zone));
    log("UNREGISTER_COALESCED_MMIO", m.vm(KVM_UNREGISTER_COALESCED_MMIO, &zone));
    log("UNREGISTER_COALESCED_MMIO again", m.vm(KVM_UNREGISTER_COALESCED_MMIO, &zone));
    log("CREATE_VCPU 4096", m.vm(KVM_CREATE_VCPU, 4096ul));
    log("CREATE_VCPU huge", m.vm(KVM_CREATE_VCPU, ~0ul));
    m.add_vcpu(0);
    log("CREATE_VCPU 0 again", m.vm(KVM_CREATE_VCPU, 0ul));
    log("CREATE_IRQCHIP late", m.vm(KVM_CREATE_IRQCHIP));
    log("SET_IDENTITY_MAP_ADDR late", m.vm(KVM_SET_IDENTITY_MAP_ADDR, &address));
    log("SET_BOOT_CPU_ID late", m.vm(KVM_SET_BOOT_CPU_ID, 0ul));
  });
}

TEST(Surface, VmWithIrqchip) {
  compare([](const Backend& backend, Log& log) {
    Machine m(backend, Machine::Irqchip::kKernel, false);
    log("CREATE_IRQCHIP again", m.vm(KVM_CREATE_IRQCHIP));
    kvm_irqchip chip{};
    for (uint32_t id = 0; id < 4; id++) {
      chip.chip_id = id;
      log("GET_IRQCHIP " + std::to_string(id), m.vm(KVM_GET_IRQCHIP, &chip));
      log("SET_IRQCHIP " + std::to_string(id), m.vm(KVM_SET_IRQCHIP, &chip));
    }
    log("GET_IRQCHIP bad", m.vm(KVM_GET_IRQCHIP, kBad));
    kvm_pit_config config{};
    log("CREATE_PIT2 bad", m.vm(KVM_CREATE_PIT2, kBad));
    log("CREATE_PIT2", m.vm(KVM_CREATE_PIT2, &config));
    log("CREATE_PIT2 again", m.vm(KVM_CREATE_PIT2, &config));
    log("CREATE_PIT again", m.vm(KVM_CREATE_PIT));
    kvm_pit_state2 pit{};
    log("GET_PIT2", m.vm(KVM_GET_PIT2, &pit));
    log("SET_PIT2", m.vm(KVM_SET_PIT2, &pit));
    log("GET_PIT", m.vm(KVM_GET_PIT, &pit));
    log("SET_PIT", m.vm(KVM_SET_PIT, &pit));
    kvm_reinject_control reinject{};
    log("REINJECT_CONTROL", m.vm(KVM_REINJECT_CONTROL, &reinject));
    kvm_irq_level level{};
    level.irq = 4, level.level = 1;
    log("IRQ_LINE", m.vm(KVM_IRQ_LINE, &level));
    level.irq = 5;
    log("IRQ_LINE_STATUS", m.vm(KVM_IRQ_LINE_STATUS, &level));
    level.irq = 3000;
    log("IRQ_LINE of no route", m.vm(KVM_IRQ_LINE, &level));
    log("IRQ_LINE bad", m.vm(KVM_IRQ_LINE, kBad));
    kvm_msi msi{};
    msi.address_lo = 0xfee00000, msi.data = 0x41;
    log("SIGNAL_MSI to none", m.vm(KVM_SIGNAL_MSI, &msi));
    msi.flags = 1;
    log("SIGNAL_MSI flags", m.vm(KVM_SIGNAL_MSI, &msi));
    Listed<kvm_irq_routing, kvm_irq_routing_entry> routes(5000);
    auto route = [&](const char* what, uint32_t count, uint32_t gsi, uint32_t type, uint32_t flags, uint32_t a, uint32_t b) {
      routes.header()->nr = count, routes.header()->flags = 0;
      for (uint32_t i = 0; i < count; i++) {
        kvm_irq_routing_entry& e = routes.entries()[i];
        e = {};
        e.gsi = gsi + i, e.type = type, e.flags = flags;
        e.u.irqchip = {a, b};
      }
      log(what, m.vm(KVM_SET_GSI_ROUTING, routes.header()));
    };
    route("route ioapic", 1, 4, KVM_IRQ_ROUTING_IRQCHIP, 0, KVM_IRQCHIP_IOAPIC, 4);
    route("route ioapic pin 24", 1, 4, KVM_IRQ_ROUTING_IRQCHIP, 0, KVM_IRQCHIP_IOAPIC, 24);
    route("route pic pin 8", 1, 4, KVM_IRQ_ROUTING_IRQCHIP, 0, KVM_IRQCHIP_PIC_MASTER, 8);
    route("route chip 3", 1, 4, KVM_IRQ_ROUTING_IRQCHIP, 0, 3, 0);
    route("route flags", 1, 4, KVM_IRQ_ROUTING_IRQCHIP, 1, KVM_IRQCHIP_IOAPIC, 4);
    route("route type 99", 1, 4, 99, 0, 0, 0);
    route("route msi", 1, 30, KVM_IRQ_ROUTING_MSI, 0, 0xfee00000, 0);
    route("route gsi 4095", 1, 4095, KVM_IRQ_ROUTING_MSI, 0, 0xfee00000, 0);
    route("route gsi 4096", 1, 4096, KVM_IRQ_ROUTING_MSI, 0, 0xfee00000, 0);
    route("route 4097", 4097, 0, KVM_IRQ_ROUTING_MSI, 0, 0xfee00000, 0);
    routes.header()->nr = 0;
    log("route none", m.vm(KVM_SET_GSI_ROUTING, routes.header()));
    routes.header()->flags = 1;
    log("route header flags", m.vm(KVM_SET_GSI_ROUTING, routes.header()));
    log("route bad", m.vm(KVM_SET_GSI_ROUTING, kBad));
    route("route ioapic back", 24, 0, KVM_IRQ_ROUTING_IRQCHIP, 0, KVM_IRQCHIP_IOAPIC, 4);

    int event = ::eventfd(0, EFD_CLOEXEC), event2 = ::eventfd(0, EFD_CLOEXEC), null = ::open("/dev/null", O_RDONLY);
    auto irqfd = [&](const char* what, int fd, uint32_t gsi, uint32_t flags, int resample = 0) {
      kvm_irqfd request{};
      request.fd = static_cast<uint32_t>(fd), request.gsi = gsi, request.flags = flags;
      request.resamplefd = static_cast<uint32_t>(resample);
      log(what, m.vm(KVM_IRQFD, &request));
    };
    irqfd("irqfd of no descriptor", 12345, 4, 0);
    irqfd("irqfd of no eventfd", null, 4, 0);
    irqfd("irqfd", event, 4, 0);
    irqfd("irqfd again", event, 4, 0);
    irqfd("irqfd again, other gsi", event, 5, 0);
    irqfd("irqfd off other", event2, 4, KVM_IRQFD_FLAG_DEASSIGN);
    irqfd("irqfd off", event, 4, KVM_IRQFD_FLAG_DEASSIGN);
    irqfd("irqfd off again", event, 4, KVM_IRQFD_FLAG_DEASSIGN);
    irqfd("irqfd resample", event, 4, KVM_IRQFD_FLAG_RESAMPLE, event2);
    irqfd("irqfd resample of no eventfd", event2, 4, KVM_IRQFD_FLAG_RESAMPLE, null);
    irqfd("irqfd unknown flag", event2, 4, 4);
    irqfd("irqfd gsi high", event2, 5000, 0);
    irqfd("irqfd off both flags", event, 4, KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE, event2);
    log("irqfd bad", m.vm(KVM_IRQFD, kBad));

    auto ioeventfd = [&](const char* what, uint64_t address, uint32_t size, int fd, uint32_t flags, uint64_t match = 0) {
      kvm_ioeventfd request{};
      request.addr = address, request.len = size, request.fd = fd, request.flags = flags, request.datamatch = match;
      log(what, m.vm(KVM_IOEVENTFD, &request));
    };
    ioeventfd("ioeventfd pio", 0x500, 2, event, KVM_IOEVENTFD_FLAG_PIO);
    ioeventfd("ioeventfd pio again", 0x500, 2, event, KVM_IOEVENTFD_FLAG_PIO);
    ioeventfd("ioeventfd pio match", 0x500, 2, event, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH, 3);
    ioeventfd("ioeventfd pio off", 0x500, 2, event, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN);
    ioeventfd("ioeventfd pio off again", 0x500, 2, event, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN);
    ioeventfd("ioeventfd size 3", 0x500, 3, event, 0);
    ioeventfd("ioeventfd size 16", 0x500, 16, event, 0);
    ioeventfd("ioeventfd wrap", ~0ull, 4, event, 0);
    ioeventfd("ioeventfd any size", 0xfe000000, 0, event, 0);
    ioeventfd("ioeventfd any size match", 0xfe001000, 0, event, KVM_IOEVENTFD_FLAG_DATAMATCH);
    ioeventfd("ioeventfd unknown flag", 0xfe002000, 4, event, 0x100);
    ioeventfd("ioeventfd of no eventfd", 0xfe003000, 4, null, 0);
    ioeventfd("ioeventfd of no descriptor", 0xfe003000, 4, 12345, 0);
    ioeventfd("ioeventfd mmio 8", 0xfe004000, 8, event, 0);
    log("ioeventfd bad", m.vm(KVM_IOEVENTFD, kBad));
    for (int fd : {event, event2, null}) ::close(fd);
    m.add_vcpu(0);
    log("SIGNAL_MSI to vCPU 0", (msi.flags = 0, m.vm(KVM_SIGNAL_MSI, &msi)));
  });
}

TEST(Surface, EnableCap) {
  compare([](const Backend& backend, Log& log) {
    Machine m(backend, Machine::Irqchip::kNone, false);
    auto enable = [&](const char* what, uint32_t cap, uint64_t argument, uint32_t flags = 0) {
      kvm_enable_cap request{};
      request.cap = cap, request.flags = flags, request.args[0] = argument;
      log(what, m.vm(KVM_ENABLE_CAP, &request));
    };
    enable("unknown", 5000, 0);
    enable("flags", KVM_CAP_EXCEPTION_PAYLOAD, 1, 1);
    enable("EXCEPTION_PAYLOAD", KVM_CAP_EXCEPTION_PAYLOAD, 1);
    enable("TRIPLE_FAULT_EVENT", KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
    enable("USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR, 7);
    enable("USER_SPACE_MSR unknown", KVM_CAP_X86_USER_SPACE_MSR, 0x80);
    enable("X2APIC_API unknown", KVM_CAP_X2APIC_API, 0x80);
    enable("X2APIC_API", KVM_CAP_X2APIC_API, 3);
    enable("MAX_VCPU_ID 5000", KVM_CAP_MAX_VCPU_ID, 5000);
    enable("MAX_VCPU_ID 5", KVM_CAP_MAX_VCPU_ID, 5);
    enable("MAX_VCPU_ID 5 again", KVM_CAP_MAX_VCPU_ID, 5);
    enable("MAX_VCPU_ID 6", KVM_CAP_MAX_VCPU_ID, 6);
    log("CREATE_VCPU 5", m.vm(KVM_CREATE_VCPU, 5ul));
    log("CHECK MAX_VCPU_ID", m.vm(KVM_CHECK_EXTENSION, static_cast<uintptr_t>(KVM_CAP_MAX_VCPU_ID)));
    enable("MANUAL_DIRTY_LOG_PROTECT2 1", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1);
    enable("MANUAL_DIRTY_LOG_PROTECT2 2", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 2);
    enable("MANUAL_DIRTY_LOG_PROTECT2 8", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 8);
    enable("SPLIT_IRQCHIP 25", KVM_CAP_SPLIT_IRQCHIP, 25);
    enable("SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP, 24);
    enable("SPLIT_IRQCHIP again", KVM_CAP_SPLIT_IRQCHIP, 24);
    log("CREATE_IRQCHIP", m.vm(KVM_CREATE_IRQCHIP));
    kvm_pit_config config{};
    log("CREATE_PIT2", m.vm(KVM_CREATE_PIT2, &config));
    kvm_irqchip chip{};
    log("GET_IRQCHIP", m.vm(KVM_GET_IRQCHIP, &chip));
    log("bad", m.vm(KVM_ENABLE_CAP, kBad));
    m.add_vcpu(0);
    kvm_interrupt irq{0x30};
    log("INTERRUPT", m.vcpu(KVM_INTERRUPT, &irq));
    log("INTERRUPT again", m.vcpu(KVM_INTERRUPT, &irq));
    kvm_enable_cap request{};
    request.cap = 5000;
    log("vcpu unknown", m.vcpu(KVM_ENABLE_CAP, &request));
    log("vcpu bad", m.vcpu(KVM_ENABLE_CAP, kBad));
  });
}

TEST(Surface, MsrFilter) {
  compare([](const Backend& backend, Log& log) {
    Machine m(backend, Machine::Irqchip::kNone, false);
    uint8_t bits[0x700] = {};
    kvm_msr_filter filter{};
    log("no ranges", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.flags = KVM_MSR_FILTER_DEFAULT_DENY;
    log("deny all", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.flags = 2;
    log("unknown flag", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.flags = 0;
    filter.ranges[0] = {KVM_MSR_FILTER_READ, 64, 0x10, bits};
    log("one range", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.ranges[0].flags = 0;
    log("range without flags", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.ranges[0].flags = 4;
    log("range with unknown flag", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.ranges[0] = {KVM_MSR_FILTER_READ, 0x600 * 8, 0x10, bits};
    log("largest", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.ranges[0].nmsrs++;
    log("too large", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.ranges[0].nmsrs = ~0u;
    log("far too large", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    filter.ranges[0] = {KVM_MSR_FILTER_READ, 64, 0x10, reinterpret_cast<uint8_t*>(kBad)};
    log("bad bitmap", m.vm(KVM_X86_SET_MSR_FILTER, &filter));
    log("bad", m.vm(KVM_X86_SET_MSR_FILTER, kBad));
  });
}

void vcpu_surface(const Backend& backend, Log& log, Machine::Irqchip irqchip) {
  Machine m(backend, irqchip);
  const std::string with = irqchip == Machine::Irqchip::kNone ? " (no irqchip)" : " (irqchip)";
  auto note = [&](const std::string& what, long result) { log(what + with, result); };
  for (auto [name, request] : std::initializer_list<std::pair<const char*, unsigned long>>{
           {"GET_REGS", KVM_GET_REGS}, {"SET_REGS", KVM_SET_REGS}, {"GET_SREGS", KVM_GET_SREGS}, {"SET_SREGS", KVM_SET_SREGS},
           {"GET_SREGS2", KVM_GET_SREGS2}, {"SET_SREGS2", KVM_SET_SREGS2}, {"GET_FPU", KVM_GET_FPU}, {"SET_FPU", KVM_SET_FPU},
           {"GET_XSAVE", KVM_GET_XSAVE}, {"SET_XSAVE", KVM_SET_XSAVE}, {"GET_XSAVE2", KVM_GET_XSAVE2}, {"GET_XCRS", KVM_GET_XCRS},
           {"SET_XCRS", KVM_SET_XCRS}, {"GET_MSRS", KVM_GET_MSRS}, {"SET_MSRS", KVM_SET_MSRS}, {"SET_CPUID2", KVM_SET_CPUID2},
           {"SET_CPUID", KVM_SET_CPUID}, {"GET_CPUID2", KVM_GET_CPUID2}, {"GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS},
           {"SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS}, {"GET_MP_STATE", KVM_GET_MP_STATE}, {"SET_MP_STATE", KVM_SET_MP_STATE},
           {"INTERRUPT", KVM_INTERRUPT}, {"GET_DEBUGREGS", KVM_GET_DEBUGREGS}, {"SET_DEBUGREGS", KVM_SET_DEBUGREGS},
           {"SET_GUEST_DEBUG", KVM_SET_GUEST_DEBUG}, {"TRANSLATE", KVM_TRANSLATE}, {"GET_LAPIC", KVM_GET_LAPIC},
           {"SET_LAPIC", KVM_SET_LAPIC}, {"TPR_ACCESS_REPORTING", KVM_TPR_ACCESS_REPORTING}, {"SET_VAPIC_ADDR", KVM_SET_VAPIC_ADDR},
           {"X86_SETUP_MCE", KVM_X86_SETUP_MCE}, {"X86_SET_MCE", KVM_X86_SET_MCE}, {"SET_SIGNAL_MASK", KVM_SET_SIGNAL_MASK},
           {"HAS_DEVICE_ATTR", KVM_HAS_DEVICE_ATTR}, {"GET_DEVICE_ATTR", KVM_GET_DEVICE_ATTR}, {"SET_DEVICE_ATTR", KVM_SET_DEVICE_ATTR},
           {"unknown", _IO(KVMIO, 0xfe)}, {"other type", _IO('x', 1)}, {"a VM's", KVM_CREATE_IRQCHIP}}) {
    note(std::string(name) + " bad", m.vcpu(request, kBad));
  }
  kvm_sregs good;
  note("GET_SREGS", m.vcpu(KVM_GET_SREGS, &good));
  note("apic_base", static_cast<long>(good.apic_base));
  auto sregs = [&](const char* what, auto change) {
    kvm_sregs s = good;
    change(s);
    note(std::string("SET_SREGS ") + what, m.vcpu(KVM_SET_SREGS, &s));
    m.vcpu(KVM_SET_SREGS, &good);
  };
  sregs("as they are", [](kvm_sregs&) {});
  sregs("PG without PE", [](kvm_sregs& s) { s.cr0 = 0x80000010; });
  sregs("NW without CD", [](kvm_sregs& s) { s.cr0 = 0x20000011; });
  sregs("cr0 upper half", [](kvm_sregs& s) { s.cr0 |= 1ull << 32; });
  sregs("LMA without LME", [](kvm_sregs& s) { s.efer = 0x400; });
  sregs("LME, PG, no PAE", [](kvm_sregs& s) { s.efer = 0x500, s.cr0 = 0x80000011, s.cr4 = 0; });
  sregs("LME, PG, no LMA", [](kvm_sregs& s) { s.efer = 0x100, s.cr0 = 0x80000011, s.cr4 = 0x20; });
  sregs("long mode", [](kvm_sregs& s) { s.efer = 0x500, s.cr0 = 0x80000011, s.cr4 = 0x20, s.cr3 = 0x1000; });
  sregs("long mode, cr3 too wide", [](kvm_sregs& s) { s.efer = 0x500, s.cr0 = 0x80000011, s.cr4 = 0x20, s.cr3 = 1ull << 60; });
  sregs("CS.L outside of long mode", [](kvm_sregs& s) { s.cs.l = 1; });
  sregs("cr4 reserved", [](kvm_sregs& s) { s.cr4 = 1ull << 30; });
  sregs("cr4 upper half", [](kvm_sregs& s) { s.cr4 = 1ull << 40; });
  sregs("apic_base reserved", [](kvm_sregs& s) { s.apic_base |= 1; });
  sregs("cr8 16", [](kvm_sregs& s) { s.cr8 = 16; });
  kvm_sregs2 two;
  note("GET_SREGS2", m.vcpu(KVM_GET_SREGS2, &two));
  two.flags = 2;
  note("SET_SREGS2 unknown flag", m.vcpu(KVM_SET_SREGS2, &two));
  two.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
  note("SET_SREGS2 pdptrs without PAE", m.vcpu(KVM_SET_SREGS2, &two));

  kvm_vcpu_events events;
  note("GET_VCPU_EVENTS", m.vcpu(KVM_GET_VCPU_EVENTS, &events));
  note("events flags", events.flags);
  auto set_events = [&](const char* what, auto change) {
    kvm_vcpu_events e{};
    change(e);
    note(std::string("SET_VCPU_EVENTS ") + what, m.vcpu(KVM_SET_VCPU_EVENTS, &e));
    kvm_vcpu_events none{};
    m.vcpu(KVM_SET_VCPU_EVENTS, &none);
  };
  set_events("none", [](kvm_vcpu_events&) {});
  set_events("unknown flag", [](kvm_vcpu_events& e) { e.flags = 0x100; });
  set_events("payload not enabled", [](kvm_vcpu_events& e) { e.flags = KVM_VCPUEVENT_VALID_PAYLOAD; });
  set_events("triple fault not enabled", [](kvm_vcpu_events& e) { e.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT; });
  set_events("exception 32", [](kvm_vcpu_events& e) { e.exception.injected = 1, e.exception.nr = 32; });
  set_events("exception 2", [](kvm_vcpu_events& e) { e.exception.injected = 1, e.exception.nr = 2; });
  set_events("exception 13", [](kvm_vcpu_events& e) { e.exception.injected = 1, e.exception.nr = 13, e.exception.has_error_code = 1; });
  set_events("smm", [](kvm_vcpu_events& e) { e.flags = KVM_VCPUEVENT_VALID_SMM, e.smi.smm = 1; });
  set_events("smi", [](kvm_vcpu_events& e) { e.flags = KVM_VCPUEVENT_VALID_SMM, e.smi.pending = 1; });
  {
    kvm_vcpu_events e{};
    e.exception.injected = 1, e.exception.nr = 14, e.exception.has_error_code = 1, e.exception.error_code = 5;
    e.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS, e.flags = KVM_VCPUEVENT_VALID_SHADOW;
    e.nmi.masked = 1;
    m.vcpu(KVM_SET_VCPU_EVENTS, &e);
    note("events back", m.vcpu(KVM_GET_VCPU_EVENTS, &events));
    note("injected", events.exception.injected);
    note("pending", events.exception.pending);
    note("nr", events.exception.nr);
    note("error", events.exception.error_code);
    note("shadow", events.interrupt.shadow);
    note("masked", events.nmi.masked);
    kvm_regs regs;
    m.vcpu(KVM_GET_REGS, &regs);
    m.vcpu(KVM_SET_REGS, &regs);
    m.vcpu(KVM_GET_VCPU_EVENTS, &events);
    note("injected after SET_REGS", events.exception.injected);
    e = {};
    e.flags = KVM_VCPUEVENT_VALID_SHADOW;
    m.vcpu(KVM_SET_VCPU_EVENTS, &e);
  }

  for (uint32_t state = 0; state < 12; state++) {
    kvm_mp_state mp{state};
    note("SET_MP_STATE " + std::to_string(state), m.vcpu(KVM_SET_MP_STATE, &mp));
    mp = {KVM_MP_STATE_RUNNABLE};
    m.vcpu(KVM_SET_MP_STATE, &mp);
  }
  kvm_interrupt irq{256};
  note("INTERRUPT 256", m.vcpu(KVM_INTERRUPT, &irq));
  irq.irq = 0x30;
  note("INTERRUPT", m.vcpu(KVM_INTERRUPT, &irq));
  m.vcpu(KVM_GET_SREGS, &good);
  note("interrupt_bitmap", static_cast<long>(good.interrupt_bitmap[0]));
  note("NMI", m.vcpu(KVM_NMI));
  note("SMI", m.vcpu(KVM_SMI));
  m.vcpu(KVM_GET_VCPU_EVENTS, &events);
  note("nmi pending", events.nmi.pending);
  note("interrupt injected", events.interrupt.injected);

  kvm_debugregs debug{};
  note("GET_DEBUGREGS", m.vcpu(KVM_GET_DEBUGREGS, &debug));
  note("dr6", static_cast<long>(debug.dr6));
  note("dr7", static_cast<long>(debug.dr7));
  debug.flags = 1;
  note("SET_DEBUGREGS flags", m.vcpu(KVM_SET_DEBUGREGS, &debug));
  debug.flags = 0, debug.dr6 = 1ull << 32;
  note("SET_DEBUGREGS dr6", m.vcpu(KVM_SET_DEBUGREGS, &debug));
  debug.dr6 = 0xffff0ff0, debug.dr7 = 1ull << 32;
  note("SET_DEBUGREGS dr7", m.vcpu(KVM_SET_DEBUGREGS, &debug));

  kvm_guest_debug guest{};
  guest.control = KVM_GUESTDBG_ENABLE;
  note("SET_GUEST_DEBUG", m.vcpu(KVM_SET_GUEST_DEBUG, &guest));
  guest.control = KVM_GUESTDBG_INJECT_DB;
  note("SET_GUEST_DEBUG inject", m.vcpu(KVM_SET_GUEST_DEBUG, &guest));
  note("SET_GUEST_DEBUG inject again", m.vcpu(KVM_SET_GUEST_DEBUG, &guest));
  guest.control = 0;
  note("SET_GUEST_DEBUG off", m.vcpu(KVM_SET_GUEST_DEBUG, &guest));

  MsrList msrs(300);
  msrs.header()->nmsrs = 256;
  note("GET_MSRS 256", m.vcpu(KVM_GET_MSRS, msrs.header()));
  msrs.header()->nmsrs = 3;
  msrs.entries()[0].index = 0x174, msrs.entries()[1].index = 0xdeadbeef, msrs.entries()[2].index = 0x175;
  note("GET_MSRS stops at an unknown one", m.vcpu(KVM_GET_MSRS, msrs.header()));
  note("SET_MSRS stops at an unknown one", m.vcpu(KVM_SET_MSRS, msrs.header()));
  auto msr = [&](const char* what, uint32_t index, uint64_t value) {
    msrs.header()->nmsrs = 1;
    *msrs.entries() = {index, 0, value};
    note(std::string("SET_MSRS ") + what, m.vcpu(KVM_SET_MSRS, msrs.header()));
  };
  msr("LSTAR not canonical", 0xc0000082, 1ull << 63);
  msr("PAT type 2", 0x277, 2);
  msr("EFER reserved", 0xc0000080, 1ull << 40);
  msr("MTRR def type", 0x2ff, 0xc06);
  msr("MCG_CTL", 0x17b, 5);

  note("SETUP_MCE 0 banks", [&] { uint64_t v = 0; return m.vcpu(KVM_X86_SETUP_MCE, &v); }());
  note("SETUP_MCE 33 banks", [&] { uint64_t v = 33; return m.vcpu(KVM_X86_SETUP_MCE, &v); }());
  note("SETUP_MCE unknown", [&] { uint64_t v = 10 | 1ull << 40; return m.vcpu(KVM_X86_SETUP_MCE, &v); }());
  note("SETUP_MCE", [&] { uint64_t v = 10 | 1 << 8; return m.vcpu(KVM_X86_SETUP_MCE, &v); }());
  kvm_x86_mce mce{};
  note("SET_MCE invalid", m.vcpu(KVM_X86_SET_MCE, &mce));
  mce.status = 1ull << 63, mce.bank = 10;
  note("SET_MCE bank 10", m.vcpu(KVM_X86_SET_MCE, &mce));
  mce.bank = 9;
  note("SET_MCE", m.vcpu(KVM_X86_SET_MCE, &mce));
  msrs.header()->nmsrs = 1, msrs.entries()->index = 0x400 + 9 * 4 + 1;
  note("GET_MSRS MC9_STATUS", m.vcpu(KVM_GET_MSRS, msrs.header()));
  note("MC9_STATUS", static_cast<long>(msrs.entries()->data));

  CpuidList cpuid(300);
  cpuid.header()->nent = 257;
  note("SET_CPUID2 257", m.vcpu(KVM_SET_CPUID2, cpuid.header()));
  cpuid.header()->nent = 2;
  note("GET_CPUID2 2", m.vcpu(KVM_GET_CPUID2, cpuid.header()));
  cpuid.header()->nent = 1;
  *cpuid.entries() = {0x80000008, 0, 0, 40 << 8 | 36, 0, 0, 0, {}};
  note("SET_CPUID2 40 linear bits", m.vcpu(KVM_SET_CPUID2, cpuid.header()));

  kvm_lapic_state lapic;
  note("GET_LAPIC", m.vcpu(KVM_GET_LAPIC, &lapic));
  kvm_tpr_access_ctl tpr{};
  note("TPR_ACCESS_REPORTING", m.vcpu(KVM_TPR_ACCESS_REPORTING, &tpr));
  tpr.flags = 1;
  note("TPR_ACCESS_REPORTING flags", m.vcpu(KVM_TPR_ACCESS_REPORTING, &tpr));
  kvm_vapic_addr vapic{};
  note("SET_VAPIC_ADDR", m.vcpu(KVM_SET_VAPIC_ADDR, &vapic));
  note("KVMCLOCK_CTRL", m.vcpu(KVM_KVMCLOCK_CTRL));
  int khz = m.vcpu(KVM_GET_TSC_KHZ);
  note("GET_TSC_KHZ", khz > 100000);
  note("SET_TSC_KHZ same", m.vcpu(KVM_SET_TSC_KHZ, static_cast<uintptr_t>(khz)));
  kvm_device_attr attribute{};
  int64_t offset = 0;
  attribute.addr = at(&offset);
  note("HAS_DEVICE_ATTR TSC offset", m.vcpu(KVM_HAS_DEVICE_ATTR, &attribute));
  note("GET_DEVICE_ATTR TSC offset", m.vcpu(KVM_GET_DEVICE_ATTR, &attribute));
  note("SET_DEVICE_ATTR TSC offset", m.vcpu(KVM_SET_DEVICE_ATTR, &attribute));
  attribute.attr = 1;
  note("HAS_DEVICE_ATTR 1", m.vcpu(KVM_HAS_DEVICE_ATTR, &attribute));
  attribute.group = 1;
  note("HAS_DEVICE_ATTR group 1", m.vcpu(KVM_HAS_DEVICE_ATTR, &attribute));

  struct {
    uint32_t len;  // kvm_signal_mask
    uint64_t bits;
  } __attribute__((packed)) mask{};
  mask.len = 16;
  note("SET_SIGNAL_MASK 16", m.vcpu(KVM_SET_SIGNAL_MASK, &mask));
  mask.len = 8;
  note("SET_SIGNAL_MASK 8", m.vcpu(KVM_SET_SIGNAL_MASK, &mask));
  note("SET_SIGNAL_MASK none", m.vcpu(KVM_SET_SIGNAL_MASK));

  kvm_xcrs xcrs{};
  note("GET_XCRS", m.vcpu(KVM_GET_XCRS, &xcrs));
  note("xcr0", static_cast<long>(xcrs.xcrs[0].value));
  xcrs.nr_xcrs = 17;
  note("SET_XCRS 17", m.vcpu(KVM_SET_XCRS, &xcrs));
  xcrs.nr_xcrs = 1, xcrs.xcrs[0].value = 2;
  note("SET_XCRS without x87", m.vcpu(KVM_SET_XCRS, &xcrs));
  xcrs.xcrs[0].value = 1ull << 50;
  note("SET_XCRS unknown", m.vcpu(KVM_SET_XCRS, &xcrs));
  static kvm_xsave xsave;
  note("GET_XSAVE", m.vcpu(KVM_GET_XSAVE, &xsave));
  xsave.region[128] |= 1u << 30;
  note("SET_XSAVE unknown component", m.vcpu(KVM_SET_XSAVE, &xsave));
  m.vcpu(KVM_GET_XSAVE, &xsave);
  xsave.region[130] = 1;
  note("SET_XSAVE compacted", m.vcpu(KVM_SET_XSAVE, &xsave));
  m.vcpu(KVM_GET_XSAVE, &xsave);
  xsave.region[128] |= 3, xsave.region[6] = 0x80001f80;
  note("SET_XSAVE mxcsr", m.vcpu(KVM_SET_XSAVE, &xsave));
  m.vcpu(KVM_GET_XSAVE, &xsave);
  note("SET_XSAVE", m.vcpu(KVM_SET_XSAVE, &xsave));
}

TEST(Surface, VcpuWithoutIrqchip) {
  compare([](const Backend& backend, Log& log) { vcpu_surface(backend, log, Machine::Irqchip::kNone); });
}

TEST(Surface, VcpuWithIrqchip) {
  compare([](const Backend& backend, Log& log) { vcpu_surface(backend, log, Machine::Irqchip::kKernel); });
}

// Every capability that is claimed names something that answers.
TEST(Surface, ClaimedCapabilities) {
  compare([](const Backend& backend, Log& log) {
    Handle s(backend, backend.open());
    for (unsigned cap : {KVM_CAP_IRQCHIP, KVM_CAP_HLT, KVM_CAP_USER_MEMORY, KVM_CAP_SET_TSS_ADDR, KVM_CAP_EXT_CPUID, KVM_CAP_CLOCKSOURCE,
                         KVM_CAP_NR_MEMSLOTS, KVM_CAP_NOP_IO_DELAY, KVM_CAP_MP_STATE, KVM_CAP_COALESCED_MMIO, KVM_CAP_SYNC_MMU,
                         KVM_CAP_DESTROY_MEMORY_REGION_WORKS, KVM_CAP_USER_NMI, KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_REINJECT_CONTROL,
                         KVM_CAP_IRQ_ROUTING, KVM_CAP_IRQ_INJECT_STATUS, KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, KVM_CAP_MCE, KVM_CAP_IRQFD,
                         KVM_CAP_PIT, KVM_CAP_PIT2, KVM_CAP_SET_BOOT_CPU_ID, KVM_CAP_PIT_STATE2, KVM_CAP_IOEVENTFD, KVM_CAP_SET_IDENTITY_MAP_ADDR,
                         KVM_CAP_ADJUST_CLOCK, KVM_CAP_INTERNAL_ERROR_DATA, KVM_CAP_VCPU_EVENTS, KVM_CAP_DEBUGREGS,
                         KVM_CAP_X86_ROBUST_SINGLESTEP, KVM_CAP_XSAVE, KVM_CAP_XCRS, KVM_CAP_GET_TSC_KHZ, KVM_CAP_MAX_VCPUS,
                         KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_SYNC_REGS, KVM_CAP_KVMCLOCK_CTRL, KVM_CAP_SIGNAL_MSI, KVM_CAP_READONLY_MEM,
                         KVM_CAP_IRQFD_RESAMPLE, KVM_CAP_IOEVENTFD_NO_LENGTH, KVM_CAP_ENABLE_CAP_VM, KVM_CAP_SPLIT_IRQCHIP,
                         KVM_CAP_IOEVENTFD_ANY_LENGTH, KVM_CAP_MAX_VCPU_ID, KVM_CAP_X2APIC_API, KVM_CAP_IMMEDIATE_EXIT,
                         KVM_CAP_GET_MSR_FEATURES, KVM_CAP_COALESCED_PIO, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_USER_SPACE_MSR,
                         KVM_CAP_X86_MSR_FILTER, KVM_CAP_SREGS2, KVM_CAP_XSAVE2, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_VCPU_ATTRIBUTES,
                         KVM_CAP_SYS_ATTRIBUTES, KVM_CAP_CHECK_EXTENSION_VM, KVM_CAP_ENABLE_CAP,
                         KVM_CAP_IOAPIC_POLARITY_IGNORED, KVM_CAP_SET_GUEST_DEBUG2, KVM_CAP_USER_MEMORY2, KVM_CAP_VM_TYPES,
                         KVM_CAP_BINARY_STATS_FD, KVM_CAP_MSR_PLATFORM_INFO, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_STEAL_TIME,
                         KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL}) {
      log("capability " + std::to_string(cap), s(KVM_CHECK_EXTENSION, static_cast<uintptr_t>(cap)));
    }
  });
}

// Bounded by readings of the host's TSC on both sides, so that no time is assumed.
TEST(Surface, AScaledTscRunsAtTheRateGiven) {
  Machine m(kSoftkvm);
  const int khz = m.vcpu(KVM_GET_TSC_KHZ);
  ASSERT_EQ(m.vcpu(KVM_SET_TSC_KHZ, static_cast<uintptr_t>(khz / 2)), 0);
  EXPECT_EQ(m.vcpu(KVM_GET_TSC_KHZ), khz / 2);
  auto read = [&] {
    MsrList list(1);
    list.header()->nmsrs = 1;
    list.entries()->index = 0x10;
    EXPECT_EQ(m.vcpu(KVM_GET_MSRS, list.header()), 1);
    return list.entries()->data;
  };
  const uint64_t a0 = __builtin_ia32_rdtsc(), a = read(), a1 = __builtin_ia32_rdtsc();
  usleep(10000);
  const uint64_t b0 = __builtin_ia32_rdtsc(), b = read(), b1 = __builtin_ia32_rdtsc();
  // khz is a rounded figure: a thousandth of slack.
  EXPECT_GE(b - a + (b - a) / 1000 + 2, (b0 - a1) / 2);
  EXPECT_LE(b - a, (b1 - a0) / 2 + (b1 - a0) / 1000 + 2);
  EXPECT_EQ(m.vcpu(KVM_SET_TSC_KHZ, 0x100000000ul), -EINVAL);
}

TEST(Surface, NoCapabilityIsClaimedThatIsNotThere) {
  Handle s(kSoftkvm, open_system());
  for (unsigned cap : {KVM_CAP_ASYNC_PF, KVM_CAP_ASYNC_PF_INT, KVM_CAP_VAPIC, KVM_CAP_HYPERV, KVM_CAP_XEN_HVM,
                       KVM_CAP_NESTED_STATE}) {
    EXPECT_EQ(s(KVM_CHECK_EXTENSION, static_cast<uintptr_t>(cap)), 0) << cap;
  }
}

}  // namespace
}  // namespace vireo::softkvm::test
