// SPDX-License-Identifier: Apache-2.0
#include "cli/stat/stat.h"

#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <optional>

#include "cli/option_words.h"
#include "cli/standard_files.h"
#include "cli/stat/sample.h"

namespace vireo::cli::stat {
namespace {

constexpr char kHelp[] = R"(vireo stat: counters of a running machine
  vireo stat [PROCESS] [COUNTER]... [OPTION]...
  PROCESS            number of the process: of vireo run, or of a program under vireo kvm. Without it the only
                     machine of this user is taken
  COUNTER            name of one, or a pattern as the shell has them ('*exits'): only these are shown, zero or not
  --interval SECONDS between two tables, 0.1 to 3600; 1 without
  --count N          ends after N tables
  --once             what has been counted so far, and no rates
  --per-vcpu         a column for each vCPU
  --all              counters that are zero too
  --json             one object a line, for each moment; values in the counters' own units
  --list             the processes of this user's machines
What the counters mean: docs/guide/stat.md. Ends with exit status 0 when the machine ends.
)";

struct Options {
  std::string process, interval, count;
  CounterNames counters;
  bool once = false, per_vcpu = false, all = false, json = false, list = false, help = false;
};

Result<Options> parse(int argc, char** argv) {
  Options options;
  CLI::App app;
  app.set_help_flag();
  std::vector<std::string> words;
  app.add_option("words", words);
  app.add_option("--interval", options.interval);
  app.add_option("--count", options.count);
  app.add_flag("--once", options.once);
  app.add_flag("--per-vcpu", options.per_vcpu);
  app.add_flag("--all", options.all);
  app.add_flag("--json", options.json);
  app.add_flag("--list", options.list);
  app.add_flag("--help,-h", options.help);
  if (auto parsed = parse_words(app, {argv, argv + argc}, "vireo stat"); !parsed) return std::unexpected(std::move(parsed).error().within("stat"));
  // No counter's name begins as a number does.
  for (std::string& word : words) {
    if (!isdigit(static_cast<unsigned char>(word[0]))) options.counters.patterns.push_back(std::move(word));
    else if (!options.process.empty()) return fail(ErrorKind::kInvalid, "stat: " + word + ": one process is shown, and " + options.process + " is named already");
    else options.process = std::move(word);
  }
  return options;
}

template <class T>
Result<T> number(const std::string& text, const std::string& option, T least, T most, const char* wanted) {
  T value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most))
    return fail(ErrorKind::kInvalid, "stat: " + option + (option.empty() ? "" : " ") + text + ": " + wanted);
  return value;
}

Result<pid_t> only_machine() {
  const std::vector<pid_t> found = control::statistics_guests();
  if (found.size() == 1) return found[0];
  if (found.empty()) return fail(ErrorKind::kNotFound, "stat: this user has no machine running");
  std::string names;
  for (pid_t process : found) names += " " + std::to_string(process);
  return fail(ErrorKind::kInvalid, "stat: name one of the running machines:" + names);
}

// False: the machine has ended meanwhile.
bool wait(const control::StatisticsGuest& guest, uint64_t until_ns) {
  for (;;) {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    const uint64_t now = static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
    if (now >= until_ns) return true;
    pollfd ended{guest.alive.get(), POLLIN, 0};
    if (poll(&ended, 1, static_cast<int>((until_ns - now + 999'999) / 1'000'000)) > 0) return false;
  }
}

bool put(const std::string& text) { return fwrite(text.data(), 1, text.size(), stdout) == text.size() && flush_output(); }

}  // namespace

Result<int> run(int argc, char** argv) {
  const Options options = TRY(parse(argc, argv));
  if (options.help) return put(kHelp) ? 0 : 1;
  if (options.list) {
    for (pid_t process : control::statistics_guests()) printf("%d\n", static_cast<int>(process));
    return flush_output() ? 0 : 1;
  }
  const double interval = options.interval.empty() ? 1 : TRY(number(options.interval, "--interval", 0.1, 3600.0, "seconds, 0.1 to 3600"));
  uint64_t left = options.once ? 1 : options.count.empty() ? ~0ull : TRY(number<uint64_t>(options.count, "--count", 1, 1'000'000'000, "1 or more"));
  const pid_t process = options.process.empty() ? TRY(only_machine()) : TRY(number<pid_t>(options.process, "", 1, INT32_MAX, "not the number of a process"));
  auto guest = control::find_statistics(process);
  if (!guest) return std::unexpected(std::move(guest).error().within("stat"));
  const Rows rows = TRY(chosen(rows_of(*guest), options.counters));
  const TableOptions shown{.all = options.all || !options.counters.patterns.empty(), .per_vcpu = options.per_vcpu};
  const bool screen = isatty(STDOUT_FILENO) && !options.once && !options.json;
  Sample now = TRY(take_sample(*guest));
  std::optional<Sample> before;
  const auto step = static_cast<uint64_t>(interval * 1e9);
  uint64_t next = now.monotonic_ns;
  const bool at_once = options.once || options.json;
  for (bool first = true;; first = false) {
    if (!first || !at_once) {
      next += step;
      if (!wait(*guest, next)) return 0;
      before = std::move(now);
      now = TRY(take_sample(*guest));
    }
    std::string text = options.json ? json(*guest, now, options.counters) + "\n" : table(*guest, rows, now, before ? &*before : nullptr, shown);
    if (screen) text = "\x1b[H\x1b[2J" + text;
    else if (!options.json && !first) text = "\n" + text;
    if (!put(text)) return 1;  // main() says why
    if (--left == 0) return 0;
  }
}

}  // namespace vireo::cli::stat
