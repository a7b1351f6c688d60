// What Linux tells of a board, and what it is asked to do: cores, clock, temperature, pages of memory.
#pragma once

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace machine {

// A file's first line; nothing where there is no file.
inline std::string line(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return text;
}

inline double number(const std::string& path) {
  std::istringstream text(line(path));
  double value = 0;
  text >> value;
  return value;
}

// A board's name: "Raspberry Pi 5 Model B Rev 1.0". Nothing where there is no device tree.
inline std::string model() {
  const std::string text = line("/proc/device-tree/model");
  return text.substr(0, text.find('\0'));
}

inline std::string cpu(const std::string& root, int core) { return root + "/sys/devices/system/cpu/cpu" + std::to_string(core); }

// The cores on which this process may run.
inline std::vector<int> allowed() {
  std::vector<int> cores;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

// Those of `cores` that come near the best: within a quarter by the kernel's cpu_capacity (1024 for the best core of a board), else within a tenth by
// the highest frequency. All of them where neither is told.
inline std::vector<int> big(const std::vector<int>& cores, const std::string& root = "") {
  for (auto [measure, share] : {std::make_pair("/cpu_capacity", 0.75), std::make_pair("/cpufreq/cpuinfo_max_freq", 0.9)}) {
    std::vector<int> found;
    double best = 0;
    for (int core : cores) best = std::max(best, number(cpu(root, core) + measure));
    for (int core : cores)
      if (number(cpu(root, core) + measure) >= share * best) found.push_back(core);
    if (best > 0) return found;
  }
  return cores;
}

inline bool bind(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : cores) CPU_SET(core, &set);
  return sched_setaffinity(0, sizeof set, &set) == 0;
}

// "4-7", "0,2"
inline std::string words(const std::vector<int>& cores) {
  std::string text;
  for (size_t i = 0, j; i < cores.size(); i = j) {
    for (j = i + 1; j < cores.size() && cores[j] == cores[j - 1] + 1;) ++j;
    text += (text.empty() ? "" : ",") + std::to_string(cores[i]) + (j > i + 1 ? "-" + std::to_string(cores[j - 1]) : "");
  }
  return text;
}

struct Clock {
  double mhz = 0, most_mhz = 0;  // of the slowest of the cores now, and what the hardware allows; 0 where the kernel does not tell
  double celsius = 0;            // of the hottest zone; 0 where the kernel does not tell
};

inline Clock clock(const std::vector<int>& cores, const std::string& root = "") {
  Clock now;
  for (int core : cores) {
    double mhz = number(cpu(root, core) + "/cpufreq/scaling_cur_freq") / 1e3;
    now.mhz = now.mhz > 0 ? std::min(now.mhz, mhz) : mhz;
    now.most_mhz = std::max(now.most_mhz, number(cpu(root, core) + "/cpufreq/cpuinfo_max_freq") / 1e3);
  }
  for (int zone = 0; !line(root + "/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/type").empty(); ++zone)
    now.celsius = std::max(now.celsius, number(root + "/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/temp") / 1e3);
  return now;
}

// The instruction sets that Linux lists for the processor; none where it lists none (as under an emulator).
inline std::set<std::string> flags() {
#ifdef __aarch64__
  const std::string key = "Features";
#else
  const std::string key = "flags";
#endif
  std::ifstream file("/proc/cpuinfo");
  for (std::string text; std::getline(file, text);)
    if (text.compare(0, key.size(), key) == 0) {
      std::istringstream words(text.substr(text.find(':') + 1));
      std::set<std::string> found;
      for (std::string word; words >> word;) found.insert(word);
      return found;
    }
  return {};
}

// As tvm_sched/quiet.py: while it lives, what is written to standard error is held back; then it follows, but for TVM's warnings about every constant
// that it loads.
class Quiet {
 public:
  Quiet() : saved_(dup(2)), held_(std::tmpfile()) {
    if (held_) dup2(fileno(held_), 2);
  }
  ~Quiet() {
    dup2(saved_, 2);
    close(saved_);
    if (!held_) return;
    std::rewind(held_);
    for (char text[4096]; std::fgets(text, sizeof text, held_);)
      if (!std::strstr(text, "Warning: Scope Loaded")) std::fputs(text, stderr);
    std::fclose(held_);
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  int saved_;
  std::FILE* held_;
};

// As tvm_sched/deploy/huge_pages.py: asks for pages of 2 MB under all anonymous memory that is in use throughout. Needs Linux 6.1; else nothing happens.
inline void huge_pages() {
  constexpr uintptr_t huge = 2 << 20;
  constexpr int hugepage = 14, collapse = 25;  // advice, of Linux's madvise
  std::vector<std::pair<uintptr_t, size_t>> regions;
  std::ifstream maps("/proc/self/smaps");
  unsigned long from = 0, to = 0, inode = 0;
  bool anonymous = false;
  for (std::string text; std::getline(maps, text);) {
    char rights[5] = "", name[64] = "";
    double resident = 0;  // kB
    if (std::sscanf(text.c_str(), "%lx-%lx %4s %*s %*s %lu %63s", &from, &to, rights, &inode, name) >= 4) {
      anonymous = std::string(rights) == "rw-p" && inode == 0 && (!name[0] || std::string(name) == "[heap]");
    } else if (anonymous && std::sscanf(text.c_str(), "Rss: %lf kB", &resident) == 1 && resident * 1024 >= 0.9 * static_cast<double>(to - from)) {
      uintptr_t start = (from + huge - 1) / huge * huge, end = to / huge * huge;
      if (end > start) regions.emplace_back(start, end - start);
    }
  }
  for (auto [address, size] : regions) {
    madvise(reinterpret_cast<void*>(address), size, hugepage);
    madvise(reinterpret_cast<void*>(address), size, collapse);
  }
}

}  // namespace machine
