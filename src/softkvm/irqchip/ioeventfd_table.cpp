// SPDX-License-Identifier: Apache-2.0
// KVM_IOEVENTFD and the doorbells: the registrations, and the table built from them.
#include <algorithm>
#include <cerrno>
#include <memory>
#include <mutex>
#include <vector>

#include "softkvm/irqchip/eventfd.h"
#include "softkvm/irqchip/ioeventfd.h"

namespace vireo::softkvm {

struct Ioeventfds::Registry {
  struct Entry {
    Ring ring;
    Eventfd eventfd;  // none for a doorbell
  };
  struct Storage {
    RingTable table;
    std::vector<Ring> slots;
  };
  std::mutex mutex;
  std::vector<Entry> entries;
  std::unique_ptr<Storage> storage;

  bool collides(const Ring& ring) const {
    return std::any_of(entries.begin(), entries.end(), [&](const Entry& entry) {
      const Ring& other = entry.ring;
      if (other.bus != ring.bus || other.address != ring.address) return false;
      if (other.size == 0 || ring.size == 0) return true;
      return other.size == ring.size && (!other.match || !ring.match || other.value == ring.value);
    });
  }

  void publish(Published<RingTable>& published) {
    std::unique_ptr<Storage> next;
    if (!entries.empty()) {
      next = std::make_unique<Storage>();
      size_t size = 8;
      while (size < entries.size() * 2) size *= 2;
      next->slots.resize(size);
      next->table.mask = size - 1;
      next->table.slots = next->slots.data();
      for (const Entry& entry : entries) {
        uint64_t at = ring_hash(entry.ring.bus, entry.ring.address) & next->table.mask;
        while (next->slots[at].used) at = (at + 1) & next->table.mask;
        next->slots[at] = entry.ring;
        next->slots[at].used = true;
      }
    }
    published.replace(next ? &next->table : nullptr);
    storage = std::move(next);
  }
};

Ioeventfds::Ioeventfds() : registry_(new Registry) {}

Ioeventfds::~Ioeventfds() {
  table_.replace(nullptr);
  delete registry_;
}

int Ioeventfds::configure(const kvm_ioeventfd& request) {
  Ring ring;
  ring.address = request.addr;
  ring.size = request.len;
  ring.bus = request.flags & KVM_IOEVENTFD_FLAG_PIO                 ? Ring::kPio
             : request.flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY ? Ring::kCcw
                                                                    : Ring::kMmio;
  ring.match = request.flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
  ring.value = ring.match ? request.datamatch : 0;

  if (request.flags & KVM_IOEVENTFD_FLAG_DEASSIGN) {
    uint64_t id;
    if (int error = identify_eventfd(request.fd, id); error != 0) return error;
    std::lock_guard guard(registry_->mutex);
    auto& entries = registry_->entries;
    auto found = std::find_if(entries.begin(), entries.end(), [&](const Registry::Entry& entry) {
      const Ring& other = entry.ring;
      return entry.eventfd.fd.valid() && entry.eventfd.id == id && other.bus == ring.bus &&
             other.address == ring.address && other.size == ring.size && other.match == ring.match &&
             other.value == ring.value;
    });
    if (found == entries.end()) return -ENOENT;
    Registry::Entry gone = std::move(*found);  // its descriptor stays open until no vCPU can ring it
    entries.erase(found);
    registry_->publish(table_);
    return 0;
  }

  switch (request.len) {
    case 0: case 1: case 2: case 4: case 8: break;
    default: return -EINVAL;
  }
  if (request.addr + request.len < request.addr) return -EINVAL;
  if (request.flags & ~uint32_t{KVM_IOEVENTFD_VALID_FLAG_MASK}) return -EINVAL;
  if (request.len == 0 && ring.match) return -EINVAL;
  Registry::Entry entry;
  entry.ring = ring;
  if (int error = hold_eventfd(request.fd, entry.eventfd); error != 0) return error;
  entry.ring.fd = entry.eventfd.fd.get();
  std::lock_guard guard(registry_->mutex);
  if (registry_->collides(ring)) return -EEXIST;
  registry_->entries.push_back(std::move(entry));
  registry_->publish(table_);
  return 0;
}

int Ioeventfds::add_doorbell(const Ring& request) {
  switch (request.size) {
    case 0: case 1: case 2: case 4: case 8: break;
    default: return -EINVAL;
  }
  if (request.call == nullptr || (request.size == 0 && request.match)) return -EINVAL;
  Registry::Entry entry;
  entry.ring = request;
  entry.ring.fd = -1;
  std::lock_guard guard(registry_->mutex);
  if (registry_->collides(request)) return -EEXIST;
  registry_->entries.push_back(std::move(entry));
  registry_->publish(table_);
  return 0;
}

int Ioeventfds::remove_doorbell(const Ring& request) {
  std::lock_guard guard(registry_->mutex);
  auto& entries = registry_->entries;
  auto found = std::find_if(entries.begin(), entries.end(), [&](const Registry::Entry& entry) {
    const Ring& other = entry.ring;
    return other.call != nullptr && other.call == request.call && other.context == request.context &&
           other.bus == request.bus && other.address == request.address && other.size == request.size &&
           other.match == request.match && (!other.match || other.value == request.value);
  });
  if (found == entries.end()) return -ENOENT;
  entries.erase(found);
  registry_->publish(table_);
  return 0;
}

}  // namespace vireo::softkvm
