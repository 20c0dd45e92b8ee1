// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/pic.h"

namespace vireo::softkvm {

namespace {

constexpr unsigned kCascade = 2;
constexpr unsigned kNone = 8;  // one below the lowest priority

// 0 is the highest; priority_add is the line that has it.
unsigned highest_priority(const kvm_pic_state& chip, uint8_t lines) {
  if (lines == 0) return kNone;
  unsigned priority = 0;
  while (!(lines >> ((priority + chip.priority_add) & 7) & 1)) ++priority;
  return priority;
}

}  // namespace

struct Pic::Work {
  uint32_t acked = 0;         // pins
  uint32_t mask_changed = 0;  // pins ...
  uint32_t masked = 0;        // ... and their new state
  bool rise = false;          // of INTR
};

Pic::Pic(ApicBus& bus, Router& router) : bus_(bus), router_(router), chips_{} {
  // IRQ 0, 1, 2, 8 and 13 are edge-triggered for good.
  chips_[0].elcr_mask = 0xf8;
  chips_[1].elcr_mask = 0xde;
}

void Pic::finish(const Work& work) {
  for (unsigned pin = 0; pin < 16; ++pin) {
    const unsigned chip = pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
    if (work.acked >> pin & 1) router_.acked(chip, pin);
    if (work.mask_changed >> pin & 1) router_.mask_changed(chip, pin, work.masked >> pin & 1);
  }
  if (work.rise) bus_.kick_extint();
}

int Pic::set_line(kvm_pic_state& chip, unsigned line, bool level) {
  const uint8_t bit = static_cast<uint8_t>(1u << line);
  int result = 1;
  if (chip.elcr & bit) {
    if (level) {
      result = !(chip.irr & bit);
      chip.irr |= bit;
      chip.last_irr |= bit;
    } else {
      chip.irr &= ~bit;
      chip.last_irr &= ~bit;
    }
  } else if (level) {
    if (!(chip.last_irr & bit)) {
      result = !(chip.irr & bit);
      chip.irr |= bit;
    }
    chip.last_irr |= bit;
  } else {
    chip.last_irr &= ~bit;
  }
  return chip.imr & bit ? -1 : result;
}

// The line to be serviced next, or -1.
int Pic::pending(const kvm_pic_state& chip) const {
  const unsigned priority = highest_priority(chip, chip.irr & ~chip.imr);
  if (priority == kNone) return -1;
  uint8_t serviced = chip.isr;
  // Special mask mode: what is in service and masked holds nothing up.
  if (chip.special_mask) serviced &= ~chip.imr;
  // Special fully nested mode: a second request of the slave may interrupt its first.
  if (chip.special_fully_nested_mode && &chip == &chips_[0]) serviced &= ~(1u << kCascade);
  if (priority >= highest_priority(chip, serviced)) return -1;
  return (priority + chip.priority_add) & 7;
}

void Pic::update(Work& work) {
  if (pending(chips_[1]) >= 0) {
    // A pulse: the cascade input is an edge input.
    set_line(chips_[0], kCascade, true);
    set_line(chips_[0], kCascade, false);
  }
  const bool output = pending(chips_[0]) >= 0;
  if (output && !output_.load(std::memory_order_relaxed)) work.rise = true;
  output_.store(output);
}

int Pic::set_irq(unsigned pin, IrqSource source, bool level) {
  if (pin >= 16) return -1;
  Work work;
  int result;
  {
    SpinGuard guard(lock_);
    const uint8_t bit = static_cast<uint8_t>(1u << static_cast<unsigned>(source));
    if (level)
      sources_[pin] |= bit;
    else
      sources_[pin] &= ~bit;
    result = set_line(chips_[pin >> 3], pin & 7, sources_[pin] != 0);
    update(work);
  }
  finish(work);
  return result;
}

void Pic::clear_isr(unsigned chip, unsigned line, Work& work) {
  chips_[chip].isr &= ~(1u << line);
  work.acked |= 1u << (chip * 8 + line);
}

void Pic::intack(unsigned index, unsigned line, Work& work) {
  kvm_pic_state& chip = chips_[index];
  const uint8_t bit = static_cast<uint8_t>(1u << line);
  chip.isr |= bit;
  if (!(chip.elcr & bit)) chip.irr &= ~bit;  // a level request stays until its line falls
  if (!chip.auto_eoi) return;
  if (chip.rotate_on_auto_eoi) chip.priority_add = (line + 1) & 7;
  clear_isr(index, line, work);
}

int Pic::acknowledge() {
  Work work;
  int vector;
  {
    SpinGuard guard(lock_);
    output_.store(false);
    const int line = pending(chips_[0]);
    if (line < 0) {
      vector = chips_[0].irq_base + 7;
    } else {
      intack(0, line, work);
      if (line == static_cast<int>(kCascade)) {
        int second = pending(chips_[1]);
        if (second >= 0)
          intack(1, second, work);
        else
          second = 7;
        vector = chips_[1].irq_base + second;
      } else {
        vector = chips_[0].irq_base + line;
      }
    }
    update(work);
  }
  finish(work);
  return vector & 0xff;
}

// --- ports

bool Pic::covers(uint16_t port) { return (port & 0xff7e) == 0x20 || (port & 0xfffe) == 0x4d0; }

void Pic::write(uint16_t port, uint8_t value) {
  Work work;
  {
    SpinGuard guard(lock_);
    const unsigned chip = (port & 0xfffe) == 0x4d0 ? port & 1 : port >> 7 & 1;
    if ((port & 0xfffe) == 0x4d0)
      chips_[chip].elcr = value & chips_[chip].elcr_mask;
    else if (port & 1)
      data(chip, value, work);
    else
      command(chip, value, work);
  }
  finish(work);
}

uint8_t Pic::read(uint16_t port) {
  if ((port & 0xfffe) == 0x4d0) {
    SpinGuard guard(lock_);
    return chips_[port & 1].elcr;
  }
  Work work;
  uint8_t value;
  {
    SpinGuard guard(lock_);
    const unsigned index = port >> 7 & 1;
    kvm_pic_state& chip = chips_[index];
    if (chip.poll) {
      chip.poll = 0;
      value = poll(index, work);
    } else if (port & 1) {
      value = chip.imr;
    } else {
      value = chip.read_reg_select ? chip.isr : chip.irr;
    }
  }
  finish(work);
  return value;
}

// A read after the poll command acknowledges: bit 7 and the line, or 7 with bit 7 clear.
uint8_t Pic::poll(unsigned index, Work& work) {
  const int line = pending(chips_[index]);
  if (line >= 0) {
    intack(index, line, work);
    if (index == 1) {
      // The request that the slave passed on has been taken here.
      chips_[0].isr &= ~(1u << kCascade);
      chips_[0].irr &= ~(1u << kCascade);
    }
  }
  update(work);
  return line >= 0 ? static_cast<uint8_t>(0x80 | line) : 7;
}

void Pic::initialize(unsigned index, uint8_t icw1, Work& work) {
  kvm_pic_state& chip = chips_[index];
  const uint8_t edges = chip.irr & ~chip.elcr;
  chip.init4 = icw1 & 1;
  chip.last_irr = 0;
  chip.irr &= chip.elcr;
  chip.imr = chip.priority_add = chip.special_mask = chip.read_reg_select = 0;
  chip.isr = 0;  // as PCs behave; the kernel's PIC keeps ISR and priorities, contrary to the datasheet
  chip.poll = 0;
  if (!chip.init4) chip.special_fully_nested_mode = chip.auto_eoi = 0;
  chip.init_state = 1;
  // Edges that are thrown away count as acknowledged, or the PIT would wait for them for ever.
  work.acked |= static_cast<uint32_t>(edges) << (index * 8);
  // The cascade needs a new edge now: a request of the slave is not passed on again.
  const bool output = pending(chips_[0]) >= 0;
  if (output && !output_.load(std::memory_order_relaxed)) work.rise = true;  // a level that was masked
  output_.store(output);
}

void Pic::command(unsigned index, uint8_t value, Work& work) {
  kvm_pic_state& chip = chips_[index];
  if (value & 0x10) return initialize(index, value, work);
  if (value & 0x08) {  // OCW3
    if (value & 0x04) chip.poll = 1;
    if (value & 0x02) chip.read_reg_select = value & 1;
    if (value & 0x40) {
      chip.special_mask = value >> 5 & 1;
      update(work);
    }
    return;
  }
  unsigned line = value & 7;  // OCW2
  switch (value >> 5) {
    case 0:
    case 4: chip.rotate_on_auto_eoi = value >> 7; return;
    case 1:
    case 5: {  // non-specific EOI: the highest in service
      uint8_t serviced = chip.isr;
      if (chip.special_mask) serviced &= ~chip.imr;
      const unsigned priority = highest_priority(chip, serviced);
      if (priority == kNone) return;
      line = (priority + chip.priority_add) & 7;
      if (value >> 5 == 5) chip.priority_add = (line + 1) & 7;
      clear_isr(index, line, work);
      break;
    }
    case 3: clear_isr(index, line, work); break;
    case 6: chip.priority_add = (line + 1) & 7; break;
    case 7:
      chip.priority_add = (line + 1) & 7;
      clear_isr(index, line, work);
      break;
    default: return;
  }
  update(work);
}

void Pic::data(unsigned index, uint8_t value, Work& work) {
  kvm_pic_state& chip = chips_[index];
  switch (chip.init_state) {
    case 0: {  // OCW1
      const uint32_t changed = chip.imr ^ value;
      chip.imr = value;
      work.mask_changed |= changed << (index * 8);
      work.masked |= static_cast<uint32_t>(value) << (index * 8);
      update(work);
      break;
    }
    case 1:
      chip.irq_base = value & 0xf8;
      chip.init_state = 2;
      break;
    case 2: chip.init_state = chip.init4 ? 3 : 0; break;  // ICW3: the cascade is wired
    default:
      chip.special_fully_nested_mode = value >> 4 & 1;
      chip.auto_eoi = value >> 1 & 1;
      chip.init_state = 0;
      break;
  }
}

// --- KVM_GET_IRQCHIP, KVM_SET_IRQCHIP

void Pic::get_state(unsigned chip, kvm_pic_state& state) {
  SpinGuard guard(lock_);
  state = chips_[chip];
}

void Pic::set_state(unsigned chip, const kvm_pic_state& state) {
  Work work;
  {
    SpinGuard guard(lock_);
    chips_[chip] = state;
    chips_[chip].priority_add &= 7;
    update(work);
    work.rise = output_.load();
  }
  finish(work);
}

}  // namespace vireo::softkvm
