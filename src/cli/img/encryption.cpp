// SPDX-License-Identifier: Apache-2.0
#include "cli/img/encryption.h"

#include "cli/img/secrets.h"

namespace vireo::cli::img {
namespace {

using storage::Luks;
using storage::LuksHeader;
std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kInvalid, why, EINVAL); }

Result<uint64_t> number(const std::string& name, const std::string& value) {
  char* end;
  errno = 0;
  unsigned long long n = strtoull(value.c_str(), &end, 10);
  if (value.empty() || *end || errno || value[0] == '-') return bad("Parameter '" + name + "' expects a number");
  return n;
}

Result<uint64_t> milliseconds(const std::string& name, const std::string& value) {
  uint64_t n = TRY(number(name, value));
  if (n == 0) return bad("iteration time must be non-zero");
  return n;
}

Result<> erase(Luks& luks, storage::File& file, const KeyChange& change, bool force) {
  if (!change.new_secret.empty()) return bad("'new-secret' must not be given when erasing keyslots");
  auto& slots = luks.header().slots;
  size_t active = 0;
  for (auto& s : slots) active += s.active;
  std::optional<storage::SecretBytes> old;
  if (!change.old_secret.empty()) old = TRY(find_secret(change.old_secret));
  if (change.keyslot) {
    size_t slot = *change.keyslot;
    std::string name = std::to_string(slot);
    if (old && !TRY(luks.opens(file, slot, *old))) return bad("This keyslot is already erased or doesn't match the given old password: " + name);
    if (!force && !slots[slot].active) return bad("Given keyslot " + name + " is already erased (inactive) ");
    if (!force && active == 1)
      return bad("Attempt to erase the only active keyslot " + name + " which will erase all the data in the image irreversibly - refusing operation");
    return luks.erase_slot(file, slot);
  }
  if (!old) return bad("To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given");
  std::vector<size_t> matching;
  for (size_t i = 0; i < slots.size(); ++i)
    if (TRY(luks.opens(file, i, *old))) matching.push_back(i);
  if (matching.empty()) return bad("No keyslots match given (old) password for erase operation");
  if (!force && matching.size() == active)
    return bad("All the active keyslots match the (old) password that was given and erasing them will erase all the data in the image irreversibly - refusing operation");
  for (size_t i : matching) TRY_VOID(luks.erase_slot(file, i));
  return {};
}

}  // namespace

Result<bool> luks_option(const std::string& name, const std::string& value, storage::LuksOptions& options) {
  if (name == "cipher-alg") options.cipher = value;
  else if (name == "cipher-mode") options.mode = value;
  else if (name == "ivgen-alg") options.ivgen = value;
  else if (name == "ivgen-hash-alg") options.ivgen_hash = value;
  else if (name == "hash-alg") options.hash = value;
  else if (name == "iter-time") options.iter_time = TRY(milliseconds(name, value));
  else return false;
  return true;
}

Result<bool> KeyChange::take(const std::string& name, const std::string& value) {
  if (name == "state") {
    if (value != "active" && value != "inactive") return bad("Parameter 'state' does not accept value '" + value + "'");
    state = value;
  } else if (name == "new-secret") {
    new_secret = value;
  } else if (name == "old-secret") {
    old_secret = value;
  } else if (name == "keyslot") {
    keyslot = TRY(number(name, value));
  } else if (name == "iter-time") {
    iter_time = TRY(milliseconds(name, value));
  } else {
    return false;
  }
  asked = true;
  return true;
}

Result<> change_keys(Luks& luks, storage::File& file, const KeyChange& change, bool force, const std::string& secret_option) {
  if (change.state.empty()) return bad("Parameter 'state' is missing");
  if (change.keyslot && *change.keyslot >= LuksHeader::kSlots)
    return bad("Invalid keyslot " + std::to_string(*change.keyslot) + " specified, must be between 0 and " + std::to_string(LuksHeader::kSlots - 1));
  if (!luks.unlocked()) return bad("Parameter '" + secret_option + "' is required for cipher");
  if (change.state == "inactive") return erase(luks, file, change, force);
  if (change.new_secret.empty()) return bad("'new-secret' is required to activate a keyslot");
  if (!change.old_secret.empty()) return bad("'old-secret' must not be given when activating keyslots");
  auto secret = TRY(find_secret(change.new_secret));
  size_t slot = 0;
  if (change.keyslot) {
    slot = *change.keyslot;
    if (!force && luks.header().slots[slot].active)
      return bad("Refusing to overwrite active keyslot " + std::to_string(slot) + " - please erase it first");
  } else {
    while (slot < LuksHeader::kSlots && luks.header().slots[slot].active) ++slot;
    if (slot == LuksHeader::kSlots) return bad("Can't add a keyslot - all keyslots are in use");
  }
  return luks.set_slot(file, slot, secret, change.iter_time);
}

nlohmann::ordered_json describe_luks(const LuksHeader& h, bool in_qcow2) {
  nlohmann::ordered_json out;
  out["ivgen-alg"] = h.spec.ivgen.empty() ? "none" : h.spec.ivgen;
  out["hash-alg"] = h.hash;
  out["cipher-alg"] = h.cipher_text();
  out["uuid"] = h.uuid;
  if (!h.spec.ivgen_hash.empty()) out["ivgen-hash-alg"] = h.spec.ivgen_hash;
  if (in_qcow2) out["format"] = "luks";
  out["cipher-mode"] = h.spec.mode;
  auto slots = nlohmann::ordered_json::array();
  for (const storage::LuksSlot& s : h.slots) {
    nlohmann::ordered_json slot;
    slot["active"] = s.active;
    if (s.active) slot["iters"] = s.iterations;
    slot["key-offset"] = uint64_t{s.offset} * 512;
    if (s.active) slot["stripes"] = s.stripes;
    slots.push_back(std::move(slot));
  }
  out["slots"] = std::move(slots);
  out["payload-offset"] = uint64_t{h.payload} * 512;
  out["master-key-iters"] = h.iterations;
  return out;
}

}  // namespace vireo::cli::img
