// SPDX-License-Identifier: Apache-2.0
// The commands. Their options are letters for getopt(3), which tells wrong ones itself.
#include <getopt.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "cli/io/session.h"
#include "cli/standard_files.h"
#include "storage/file/null_file.h"
#include "storage/image/blkdebug_image.h"

namespace vireo::cli::io {
namespace {

constexpr uint64_t kLargest = 2ull << 30;  // bytes of one operation: all of them are in memory at once

struct Line {
  std::string letters;             // that were given
  std::map<char, std::string> values;
  std::vector<std::string> words;  // what is no option
  bool has(char letter) const { return letters.find(letter) != std::string::npos; }
};

struct Command {
  const char* name;
  const char* other;  // a second name
  const char* letters;
  int least, most;    // words; -1: any number
  bool needs_image;
  const char* arguments;
  const char* text;
  bool (*act)(Session&, const Command&, const Line&);
};

bool usage(const Command& c) {
  printf("%s%s%s -- %s\n", c.name, *c.arguments ? " " : "", c.arguments, c.text);
  return false;
}

bool failed(const char* what, const Error& error) {
  printf("%s failed: %s\n", what, strerror(error.code ? error.code : EIO));
  return false;
}

bool number(const std::string& text, uint64_t& out) {
  if (!text.empty() && text[0] == '-') {
    printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text.c_str());
    return false;
  }
  auto value = img::parse_bytes(text);
  if (value) {
    out = *value;
    return true;
  }
  if (value.error().code == ERANGE) printf("Parsing error: argument too large -- %s\n", text.c_str());
  else printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text.c_str());
  return false;
}

bool pattern_of(const Line& line, int& out) {
  if (!line.has('P')) return true;
  const std::string& text = line.values.at('P');
  char* end;
  long value = strtol(text.c_str(), &end, 0);
  if (*end || text.empty() || value < 0 || value > 255) {
    printf("%s is not a valid pattern byte\n", text.c_str());
    return false;
  }
  out = static_cast<int>(value);
  return true;
}

// Offset, and one or more lengths that are taken together.
bool range(const Line& line, uint64_t& offset, uint64_t& length) {
  if (!number(line.words[0], offset)) return false;
  length = 0;
  for (size_t i = 1; i < line.words.size(); ++i) {
    uint64_t part;
    if (!number(line.words[i], part)) return false;
    if (part > kLargest - length) {
      printf("Parsing error: argument too large -- %s\n", line.words[i].c_str());
      return false;
    }
    length += part;
  }
  return true;
}

// Where rules and breakpoints are, if the image was opened with such a driver.
storage::BlkdebugRules* rules_of(Session& s) {
  if (auto* filter = dynamic_cast<storage::BlkdebugImage*>(s.image.get())) return &filter->rules();
  return storage::find_blkdebug(s.image->file());
}

// aio_*: beside what follows where it can be held up by a breakpoint, else at once.
bool begin_later(Session& s, std::function<void()> act) {
  if (!rules_of(s)) return act(), true;
  s.later.emplace_back(std::move(act));
  return true;
}

storage::qcow2::Qcow2* vm_state_of(Session& s) {
  auto* q = img::as_qcow2(*s.image);
  if (!q) printf("The image has no place for a VM state\n");
  return q;
}

bool inside(const Session& s, uint64_t offset, uint64_t length) {
  return offset <= s.image->size() && length <= s.image->size() - offset;
}

bool read_into(Session& s, const char* what, uint64_t offset, std::span<std::byte> to) {
  auto result = inside(s, offset, to.size()) ? s.image->read(offset, to) : fail(ErrorKind::kInvalid, "past the end", EIO);
  return result ? true : failed(what, result.error());
}

bool read(Session& s, const Command& c, const Line& line) {
  const bool later = strncmp(c.name, "aio", 3) == 0;
  int pattern = -1;
  uint64_t offset, length, start = 0, count;
  const bool state = line.has('b');
  if (state && !vm_state_of(s)) return false;
  if (!line.has('P') && (line.has('s') || line.has('l'))) return usage(c);
  if (!pattern_of(line, pattern) || !range(line, offset, length)) return false;
  count = length;
  if (line.has('s') && !number(line.values.at('s'), start)) return false;
  if (line.has('l') && !number(line.values.at('l'), count)) return false;
  if (start > length) return printf("pattern verification range exceeds end of read data\n"), false;
  if (!line.has('l')) count = length - start;
  if (count > length - start) return printf("pattern verification range exceeds end of read data\n"), false;
  auto act = [=, &s, &c]() -> bool {
  std::vector<std::byte> data(length);
  Took took;
  if (state) {
    if (auto got = img::as_qcow2(*s.image)->read_vm_state(offset, std::span(data)); !got) return failed("read", got.error());
  } else if (!read_into(s, later ? "aio_read" : strcmp(c.name, "readv") == 0 ? "readv" : "read", offset, data)) {
    return later;
  }
  bool good = true;
  if (pattern >= 0)
    for (uint64_t i = start; good && i < start + count; ++i) good = std::to_integer<int>(data[i]) == pattern;
  if (!good) printf("Pattern verification failed at offset %llu, %llu bytes\n", static_cast<unsigned long long>(offset + start), static_cast<unsigned long long>(count));
  if (line.has('q')) return good || later;
  if (line.has('v')) dump(data, offset);
  report("read", took, offset, length, length, line.has('C'));
  return good || later;
  };
  return later ? begin_later(s, [act] { act(); }) : act();
}

bool fill_from_file(const std::string& name, std::vector<std::byte>& data) {
  FILE* file = fopen(name.c_str(), "rb");
  if (!file) return printf("%s: %s\n", name.c_str(), strerror(errno)), false;
  size_t got = fread(data.data(), 1, data.size(), file);
  fclose(file);
  if (got == 0 && !data.empty()) return printf("%s: file is empty\n", name.c_str()), false;
  for (size_t i = got; i < data.size(); ++i) data[i] = data[i - got];
  return true;
}

Result<> write_compressed(storage::Image& image, uint64_t offset, std::span<const std::byte> data) {
  const uint64_t step = std::max<uint64_t>(image.cluster_size(), 512);
  for (uint64_t done = 0; done < data.size(); done += step)
    TRY_VOID(image.write_compressed(offset + done, data.subspan(done, std::min<uint64_t>(step, data.size() - done))));
  return {};
}

bool write(Session& s, const Command& c, const Line& line) {
  const bool later = strncmp(c.name, "aio", 3) == 0, zero = line.has('z');
  int pattern = 0xcd;
  uint64_t offset, length;
  const bool state = line.has('b');
  if (state && zero) return printf("-b and -z cannot be specified at the same time\n"), false;
  if (line.has('c') && (line.has('f') || zero)) return printf("-c and -%c cannot be specified at the same time\n", zero ? 'z' : 'f'), false;
  if (line.has('u') && !zero) return printf("-u requires -z to be specified\n"), false;
  if (line.has('n') && !zero) return printf("-n requires -z to be specified\n"), false;
  if (zero + line.has('P') + line.has('s') > 1) return printf("Only one of -z, -P, and -s can be specified at the same time\n"), false;
  if (!pattern_of(line, pattern) || !range(line, offset, length)) return false;
  if (state && !vm_state_of(s)) return false;
  const char* what = later ? "aio_write" : strcmp(c.name, "writev") == 0 ? "writev" : "write";
  if (s.image->read_only()) {
    complain("Block node is read-only");
    return later;
  }
  std::vector<std::byte> data;
  if (!zero) {
    data.assign(length, static_cast<std::byte>(pattern));
    if (line.has('s') && !fill_from_file(line.values.at('s'), data)) return false;
  }
  auto act = [=, &s, data = std::move(data)]() -> bool {
  Took took;
  Result<> result;
  if (state) result = img::as_qcow2(*s.image)->write_vm_state(offset, data);
  else if (!inside(s, offset, length)) result = fail(ErrorKind::kInvalid, "past the end", EIO);
  else if (zero) result = s.image->write_zeroes(offset, length, line.has('u'));
  else if (line.has('c')) result = write_compressed(*s.image, offset, data);
  else result = s.image->write(offset, std::span<const std::byte>(data));
  if (result && line.has('f')) result = s.image->flush();
  if (!result) return failed(what, result.error()), later;
  if (!line.has('q')) report("wrote", took, offset, length, length, line.has('C'));
  return true;
  };
  return later ? begin_later(s, [act] { act(); }) : act();
}

bool aio_flush(Session& s, const Command&, const Line&) { return finish_later(s), true; }

bool set_break(Session& s, const Command&, const Line& line) {
  auto* rules = rules_of(s);
  auto set = rules ? rules->set_breakpoint(line.words[0], line.words[1]) : fail(ErrorKind::kUnsupported, "", ENOTSUP);
  if (!set) printf("Could not set a breakpoint: %s\n", strerror(set.error().code));
  return set.has_value();
}

bool wait_break(Session& s, const Command&, const Line& line) {
  auto* rules = rules_of(s);
  if (!rules) return printf("Could not wait: %s\n", strerror(ENOTSUP)), false;
  while (!rules->suspended(line.words[0])) usleep(1000);
  printf("blkdebug: Suspended request '%s'\n", line.words[0].c_str());
  return true;
}

bool resume(Session& s, const Command&, const Line& line) {
  auto* rules = rules_of(s);
  printf("blkdebug: Resuming request '%s'\n", line.words[0].c_str());
  auto done = rules ? rules->resume(line.words[0]) : fail(ErrorKind::kUnsupported, "", ENOTSUP);
  if (!done) printf("Could not resume request: %s\n", strerror(done.error().code));
  return done.has_value();
}

bool remove_break(Session& s, const Command&, const Line& line) {
  auto* rules = rules_of(s);
  auto done = rules ? rules->remove_breakpoint(line.words[0]) : fail(ErrorKind::kUnsupported, "", ENOTSUP);
  if (!done) printf("Could not remove breakpoint %s: %s\n", line.words[0].c_str(), strerror(done.error().code));
  return done.has_value();
}

bool discard(Session& s, const Command& c, const Line& line) {
  uint64_t offset, length;
  if (!number(line.words[0], offset) || !number(line.words[1], length)) return false;
  if (s.image->read_only()) return complain("Block node is read-only");
  Took took;
  auto result = inside(s, offset, length) ? s.image->discard(offset, length) : fail(ErrorKind::kInvalid, "past the end", EIO);
  if (!result) return failed("discard", result.error());
  if (!line.has('q')) report("discard", took, offset, length, length, line.has('C'));
  return true;
}

bool flush(Session& s, const Command&, const Line&) {
  auto result = s.image->flush();
  return result || complain(result.error().message);
}

// How far the image itself, without what lies below it, has or has not a part of the disk.
Result<storage::Extent> stretch(storage::Image& image, uint64_t offset, uint64_t length) {
  auto all = TRY(image.status(offset, length));
  while (all.length < length) {
    auto next = TRY(image.status(offset + all.length, length - all.length));
    if (next.allocated != all.allocated) break;
    all.length += next.length;
  }
  return all;
}

bool alloc(Session& s, const Command&, const Line& line) {
  uint64_t start, count = 512;
  if (!number(line.words[0], start) || (line.words.size() > 1 && !number(line.words[1], count))) return false;
  if (start > s.image->size()) return printf("is_allocated failed: Input/output error\n"), false;
  uint64_t allocated = 0, end = start + (count = std::min(count, s.image->size() - start));
  for (uint64_t at = start; at < end;) {
    auto here = stretch(*s.image, at, end - at);
    if (!here) return failed("is_allocated", here.error());
    if (here->allocated) allocated += here->length;
    at += here->length;
  }
  printf("%llu/%llu bytes allocated at offset %s\n", static_cast<unsigned long long>(allocated), static_cast<unsigned long long>(count),
         size_text(static_cast<double>(start)).c_str());
  return true;
}

bool map(Session& s, const Command&, const Line&) {
  for (uint64_t at = 0; at < s.image->size();) {
    auto here = stretch(*s.image, at, s.image->size() - at);
    if (!here) return complain("Failed to query allocation status: " + std::string(strerror(here.error().code)));
    printf("%s (0x%llx) bytes %s at offset %s (0x%llx)\n", size_text(static_cast<double>(here->length)).c_str(), static_cast<unsigned long long>(here->length),
           here->allocated ? "    allocated" : "not allocated", size_text(static_cast<double>(at)).c_str(), static_cast<unsigned long long>(at));
    at += here->length;
  }
  return true;
}

bool truncate(Session& s, const Command&, const Line& line) {
  uint64_t size;
  auto mode = storage::Preallocation::kOff;
  if (line.has('m')) {
    const std::string& text = line.values.at('m');
    if (text == "metadata") mode = storage::Preallocation::kMetadata;
    else if (text == "falloc") mode = storage::Preallocation::kFalloc;
    else if (text == "full") mode = storage::Preallocation::kFull;
    else if (text != "off") return complain("invalid parameter value: " + text);
  }
  if (!number(line.words[0], size)) return false;
  auto result = s.image->resize(size, mode);
  return result || complain(result.error().message);
}

bool length(Session& s, const Command&, const Line&) { return printf("%s\n", size_text(static_cast<double>(s.image->size())).c_str()), true; }

bool info(Session& s, const Command&, const Line&) {
  const std::string format = s.image->format();
  printf("format name: %s\n", format.c_str());
  const bool protocol = format != "raw" && format != "qcow2" && format != "luks" && format != "blkdebug" && format != "compress";
  if (protocol) printf("format name: %s\n", format.c_str());
  if (dynamic_cast<storage::NullFile*>(&s.image->file())) return true;
  printf("cluster size: %s\n", size_text(static_cast<double>(s.image->cluster_size())).c_str());
  auto* q = img::as_qcow2(*s.image);
  const uint64_t state = q ? q->header().geometry.l1_entries(q->size()) * q->header().geometry.l2_span() : 0;
  printf("vm state offset: %s\n", size_text(static_cast<double>(state)).c_str());
  if (q) img::print_format_specific(*q);
  return true;
}

bool sleep(Session&, const Command&, const Line& line) {
  usleep(static_cast<useconds_t>(std::min(strtoul(line.words[0].c_str(), nullptr, 10), 3600000ul) * 1000));
  return true;
}

bool quit(Session& s, const Command&, const Line&) { return s.quit = true; }
[[noreturn]] bool abort_now(Session&, const Command&, const Line&) { abort(); }

bool sigraise(Session&, const Command&, const Line& line) {
  int signal = static_cast<int>(strtol(line.words[0].c_str(), nullptr, 10));
  flush_output();  // or it would be lost with the process
  raise(signal);
  return true;
}

bool open_command(Session& s, const Command&, const Line& line) {
  if (s.image) return printf("file open already, try 'help close'\n"), false;
  img::OpenWish wish = s.wish;
  wish.writable = !line.has('r');
  wish.image_options = false;
  wish.format.clear();
  if (line.has('U')) wish.force_share = true;
  if (line.has('n')) wish.cache = "none";
  if (line.has('t')) wish.cache = line.values.at('t');
  if (line.has('C')) return complain("-C is not supported");
  std::string name = line.words.empty() ? "" : line.words[0];
  if (line.has('o')) {
    wish.image_options = true;
    wish.name_beside_options = std::exchange(name, line.values.at('o'));
  }
  auto opened = open(s, name, wish, line.has('s'));
  return opened || complain(opened.error().message);
}

bool close_command(Session& s, const Command&, const Line&) {
  auto closed = close(s);
  return closed || complain(closed.error().message);
}

bool reopen_command(Session& s, const Command&, const Line& line) {
  img::OpenWish wish = s.wish;
  if (line.has('r') && line.has('w')) return complain("Only one of -r and -w may be given");
  if (line.has('r')) wish.writable = false;
  if (line.has('w')) wish.writable = true;
  if (line.has('c')) wish.cache = line.values.at('c');
  if (line.has('c') && !img::valid_cache(wish.cache)) return complain("Invalid cache option: " + wish.cache);
  img::OptionList options;
  if (line.has('o')) {
    auto parsed = img::parse_options({line.values.at('o')});
    if (!parsed) return complain(parsed.error().message);
    options = std::move(*parsed);
  }
  for (auto& [key, value] : options) {
    if (key == "read-only" && (line.has('r') || line.has('w'))) return complain("Cannot set both -r/-w and 'read-only'");
    if (key.starts_with("cache.") && line.has('c')) return complain("Cannot set both -c and the cache options");
  }
  auto opened = reopen(s, wish, options);
  return opened || complain(opened.error().message);
}

bool help(Session&, const Command&, const Line& line);

constexpr Command kCommands[] = {
    {"abort", "", "", 0, 0, false, "", "simulate a program crash using abort(3)", abort_now},
    {"aio_flush", "", "", 0, 0, true, "", "completes all outstanding aio requests", aio_flush},
    {"aio_read", "", "CP:iqv", 2, -1, true, "[-Ciqv] [-P pattern] off len [len..]", "reads a number of bytes; here at once", read},
    {"aio_write", "", "CfiP:quz", 2, -1, true, "[-Cfiquz] [-P pattern] off len [len..]", "writes a number of bytes; here at once", write},
    {"alloc", "", "", 1, 2, true, "offset [count]", "checks if offset is allocated in the file", alloc},
    {"break", "b", "", 2, 2, true, "event tag", "sets a breakpoint on event and tags the stopped request as tag", set_break},
    {"close", "c", "", 0, 0, true, "", "close the current open file", close_command},
    {"discard", "d", "Cq", 2, 2, true, "[-Cq] off len", "discards a number of bytes at a specified offset", discard},
    {"flush", "f", "", 0, 0, true, "", "flush all in-core file state to disk", flush},
    {"help", "?", "", 0, 1, false, "[command]", "help for one or all commands", help},
    {"info", "i", "", 0, 0, true, "", "prints information about the current file", info},
    {"length", "l", "", 0, 0, true, "", "gets the length of the current file", length},
    {"map", "", "", 0, 0, true, "", "prints the allocated areas of a file", map},
    {"open", "o", "rsCnkUi:t:d:o:", 0, 1, false, "[-rnkU] [-t cache] [-d discard] [-o options] [path]", "open the file specified by path", open_command},
    {"quit", "q", "", 0, 0, false, "", "exit the program", quit},
    {"read", "r", "bCl:pP:qs:v", 2, 2, true, "[-bCqv] [-P pattern [-s off] [-l len]] off len", "reads a number of bytes at a specified offset", read},
    {"readv", "", "CP:qv", 2, -1, true, "[-Cqv] [-P pattern] off len [len..]", "reads a number of bytes at a specified offset", read},
    {"reopen", "", "c:o:rw", 0, 0, true, "[(-r|-w)] [-c cache] [-o options]", "reopens an image with new options", reopen_command},
    {"remove_break", "", "", 1, 1, true, "tag", "remove a breakpoint by tag", remove_break},
    {"resume", "", "", 1, 1, true, "tag", "resumes the request tagged as tag", resume},
    {"sigraise", "", "", 1, 1, false, "signal", "raises a signal", sigraise},
    {"sleep", "", "", 1, 1, false, "milliseconds", "waits for the given value in milliseconds", sleep},
    {"truncate", "t", "m:", 1, 1, true, "[-m prealloc_mode] off", "truncates the current file at the given offset", truncate},
    {"wait_break", "", "", 1, 1, true, "tag", "waits for the suspension of a request", wait_break},
    {"write", "w", "bcCfnpP:qs:uz", 2, 2, true, "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes a number of bytes at a specified offset", write},
    {"writev", "", "CfP:q", 2, -1, true, "[-Cfq] [-P pattern] off len [len..]", "writes a number of bytes at a specified offset", write},
};

const Command* find(const std::string& name) {
  for (const Command& c : kCommands)
    if (name == c.name || (*c.other && name == c.other)) return &c;
  return nullptr;
}

bool help(Session&, const Command&, const Line& line) {
  if (line.words.empty()) {
    for (const Command& c : kCommands) usage(c);
    printf("\nUse 'help commandname' for extended help.\n");
    return true;
  }
  const Command* c = find(line.words[0]);
  if (!c) return printf("command %s not found\n", line.words[0].c_str()), false;
  return usage(*c), true;
}

}  // namespace

void finish_later(Session& session) {
  for (auto& thread : session.later) thread.join();
  session.later.clear();
}

bool execute(Session& session, const std::string& text) {
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; in >> word;) words.push_back(word);
  if (words.empty() || words[0].starts_with("#")) return true;
  const Command* c = find(words[0]);
  if (!c) return fprintf(stderr, "command \"%s\" not found\n", words[0].c_str()), false;
  if (c->needs_image && !session.image) return fprintf(stderr, "no file open, try 'help open'\n"), false;
  words[0] = c->name;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int argc = static_cast<int>(words.size());
  if (argc - 1 < c->least || (c->most >= 0 && *c->letters == 0 && argc - 1 > c->most)) {
    if (c->most < 0) fprintf(stderr, "bad argument count %d to %s, expected at least %d arguments\n", argc - 1, c->name, c->least);
    else if (c->least == c->most && *c->letters == 0) fprintf(stderr, "bad argument count %d to %s, expected %d arguments\n", argc - 1, c->name, c->least);
    else if (*c->letters) fprintf(stderr, "bad argument count %d to %s, expected at least %d arguments\n", argc - 1, c->name, c->least);
    else fprintf(stderr, "bad argument count %d to %s, expected between %d and %d arguments\n", argc - 1, c->name, c->least, c->most);
    return false;
  }
  Line line;
  optind = 0;
  for (int letter; (letter = getopt(argc, argv.data(), c->letters)) >= 0;) {
    if (letter == '?') return usage(*c);
    line.letters += static_cast<char>(letter);
    if (optarg) line.values[static_cast<char>(letter)] = optarg;
  }
  for (int i = optind; i < argc; ++i) line.words.emplace_back(argv[static_cast<size_t>(i)]);
  const int count = static_cast<int>(line.words.size());
  if (count < c->least || (c->most >= 0 && count > c->most)) return usage(*c);
  return c->act(session, *c, line);
}

}  // namespace vireo::cli::io
