// Runs a compiled network where there is no Python: the program in a bundle (tvm_sched/deploy/bundle.py), started by its run.sh.
//
//     runner FOLDER --check                    the network's error on the check's inputs; exit code 1 if it is too large
//     runner FOLDER --bench                    times of calls, with the state of the machine
//     runner FOLDER INPUT -o OUTPUT            .npy for one input or output, .npz for several, by their names
//
// FOLDER holds net.so, network.txt (what must be known of its manifest: inputs, outputs, parts, threads) and check/*.npz. A network is loaded and called
// as in tvm_sched/deploy/artifact.py and entry.py. Exit code 2: something that the user can mend, told in one sentence.

#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "network.h"

namespace {

using bundle::Description;
using bundle::Network;
using bundle::Tensor;

const char* const USAGE =
    "usage: run.sh --check | --bench | INPUT -o OUTPUT   [--threads N] [--cores 4-7] [--seconds S] [--json]\n"
    "  INPUT       a .npy file of one input, or a .npz file (numpy.savez) of all inputs by their names; OUTPUT alike\n"
    "  --check     compare the network's outputs on the check's inputs with PyTorch's\n"
    "  --bench     time calls on the check's inputs, for about S seconds [10]\n"
    "  --threads   [as many as the network was compiled for, at most a thread a core]\n"
    "  --cores     the cores to run on [the big ones]\n"
    "  --json      print the result as JSON\n";

struct Options {
  std::string folder, mode, input, output, cores;
  int threads = 0;
  double seconds = 10;
  bool json = false;

  std::string name() const { return folder.substr(folder.rfind('/') + 1); }
};

// "4-7,2" as cores; those that are not allowed here are an error.
std::vector<int> listed(const std::string& text, const std::vector<int>& allowed) {
  std::vector<int> cores;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    int first = 0, last = 0;
    int read = std::sscanf(part.c_str(), "%d-%d", &first, &last);
    if (read < 1) throw std::runtime_error("--cores takes a list such as 4-7 or 0,2, not " + text);
    for (int core = first; core <= (read == 2 ? last : first); ++core) {
      if (!std::count(allowed.begin(), allowed.end(), core))
        throw std::runtime_error("core " + std::to_string(core) + " is not one that may be used here: " + machine::words(allowed));
      cores.push_back(core);
    }
  }
  return cores;
}

// Values of JSON: a text, a number (JSON has no infinity and no NaN), a number of which 0 says that it is unknown.
std::string in_quotes(const std::string& text) {
  std::string result = "\"";
  for (char each : text) result += (each == '"' || each == '\\' ? "\\" : "") + std::string(1, each);
  return result + "\"";
}

std::string number(double value) {
  char words[64];
  std::snprintf(words, sizeof words, "%.9g", value);
  return std::isfinite(value) ? words : "null";
}

std::string known(double value) { return value > 0 ? number(value) : "null"; }

void print_json(const std::vector<std::pair<std::string, std::string>>& members) {
  std::string line;
  for (const auto& [key, value] : members) line += (line.empty() ? "{" : ", ") + in_quotes(key) + ": " + value;
  std::printf("%s}\n", line.c_str());
}

// The value below which a share of sorted numbers lies, interpolated as NumPy does.
double quantile(const std::vector<double>& sorted, double share) {
  double at = share * static_cast<double>(sorted.size() - 1);
  size_t below = static_cast<size_t>(at), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// The largest difference from what is expected, which may be the first numbers only; NaN where one of two numbers is none, 0 between equal infinities.
double largest_error(const npy::Array& output, const npy::Array& expected) {
  double error = output.count() < expected.count() ? INFINITY : 0;
  for (size_t i = 0; i < std::min(expected.count(), output.count()); ++i) {
    const double given = output.number(i), wanted = expected.number(i);
    if (given == wanted || (std::isnan(given) && std::isnan(wanted))) continue;
    error = std::max(error, std::fabs(given - wanted));
    if (std::isnan(given) || std::isnan(wanted)) return NAN;
  }
  return error;
}

int check(Network& network, const Options& options, const Description& about) {
  const std::vector<Tensor> wanted = about.tensors("output");
  const npz::Arrays expected = npz::read(options.folder + "/check/outputs.npz");
  const npz::Arrays outputs = network(bundle::read_inputs(options.folder + "/check/inputs.npz", about.tensors("input")));
  constexpr size_t most = 1000;  // numbers of each output, as tvm_sched/deploy/manifest.py keeps
  bool whole = expected.size() == outputs.size();
  for (size_t i = 0; whole && i < expected.size(); ++i)
    whole = expected[i].first == outputs[i].first && expected[i].second.count() == std::min(most, outputs[i].second.count());
  if (!whole) throw std::runtime_error("check/outputs.npz does not hold what the network's check needs: unpack the bundle again");
  bool well = true;
  double error = 0, limit = 0, worst = -1;
  std::string name;
  for (size_t i = 0; i < std::min(expected.size(), outputs.size()); ++i) {
    const double each = largest_error(outputs[i].second, expected[i].second), allowed = wanted[i].number;
    const bool passes = each <= allowed;
    const double share = passes ? (allowed > 0 ? each / allowed : 0) : std::isnan(each) || !(allowed > 0) ? INFINITY : each / allowed;
    if (share > worst) worst = share, error = each, limit = allowed, name = outputs[i].first;
    well = well && passes;
  }
  if (options.json) {
    print_json({{"check", in_quotes(well ? "ok" : "failed")}, {"max_abs_error", number(error)}, {"limit", number(limit)}, {"output", in_quotes(name)}});
  } else {
    std::printf("%s: check %s: max abs error %.2e of '%s', at most %.2e\n", options.name().c_str(), well ? "ok" : "FAILED", error, name.c_str(), limit);
  }
  return well ? 0 : 1;
}

int bench(Network& network, const Options& options, const Description& about, const std::vector<int>& cores) {
  using Seconds = std::chrono::duration<double>;
  constexpr size_t least = 10, warm_up = 3;
  const npz::Arrays inputs = bundle::read_inputs(options.folder + "/check/inputs.npz", about.tensors("input"));
  const auto call = [&] { network.each_part(inputs, [](const tvm_c::Value&) {}); };
  for (size_t i = 0; i < warm_up; ++i) call();
  const machine::Clock before = machine::clock(cores);
  std::vector<double> times;  // milliseconds
  const auto begin = std::chrono::steady_clock::now();
  while (times.size() < least || Seconds(std::chrono::steady_clock::now() - begin).count() < options.seconds) {
    const auto start = std::chrono::steady_clock::now();
    call();
    times.push_back(1e3 * Seconds(std::chrono::steady_clock::now() - start).count());
  }
  const machine::Clock after = machine::clock(cores);

  const size_t fifth = times.size() / 5;
  std::vector<double> first(times.begin(), times.begin() + static_cast<long>(fifth)), last(times.end() - static_cast<long>(fifth), times.end());
  for (auto* each : {&first, &last, &times}) std::sort(each->begin(), each->end());
  const double median = quantile(times, .5), p90 = quantile(times, .9), slowed = quantile(last, .5) / quantile(first, .5);
  const bool slowed_down = slowed > 1.05 || after.mhz < 0.95 * before.mhz;
  const std::string governor = machine::line(machine::cpu("", cores[0]) + "/cpufreq/scaling_governor");
  if (options.json) {
    print_json({{"bundle", in_quotes(options.name())},
                {"machine", in_quotes(machine::model())},
                {"median_ms", number(median)},
                {"p90_ms", number(p90)},
                {"min_ms", number(times[0])},
                {"calls", number(static_cast<double>(times.size()))},
                {"threads", number(options.threads)},
                {"cores", in_quotes(machine::words(cores))},
                {"governor", in_quotes(governor)},
                {"mhz_before", known(before.mhz)},
                {"mhz_after", known(after.mhz)},
                {"mhz_most", known(after.most_mhz)},
                {"celsius_before", known(before.celsius)},
                {"celsius_after", known(after.celsius)},
                {"last_over_first", number(slowed)},
                {"slowed_down", slowed_down ? "true" : "false"}});
    return 0;
  }
  std::printf("%s: median %.3f ms, p90 %.3f, min %.3f of %zu calls; ", options.name().c_str(), median, p90, times[0], times.size());
  std::printf("%d threads on cores %s; ", options.threads, machine::words(cores).c_str());
  std::printf("governor %s; ", governor.empty() ? "unknown" : governor.c_str());
  if (after.mhz > 0) std::printf("%.0f MHz before, %.0f after, of %.0f; ", before.mhz, after.mhz, after.most_mhz);
  if (after.celsius > 0) std::printf("%.0f C before, %.0f after; ", before.celsius, after.celsius);
  std::printf("last fifth / first fifth %.2f%s\n", slowed, slowed_down ? " (SLOWED DOWN: throttled, or other programs run)" : "");
  return 0;
}

int run(Network& network, const Options& options, const Description& about) {
  const std::vector<Tensor> wanted = about.tensors("output");
  if (!bundle::ends_in(options.output, ".npz") && wanted.size() != 1)
    throw std::runtime_error("the network gives " + std::to_string(wanted.size()) + " outputs (" + bundle::names(wanted) + "): write them to a .npz file");
  const npz::Arrays outputs = network(bundle::read_inputs(options.input, about.tensors("input")));
  if (bundle::ends_in(options.output, ".npz")) {
    npz::write(options.output, outputs);
  } else {
    npy::write(options.output, npy::file_of(outputs[0].second));
  }
  for (const auto& [name, array] : outputs) {
    const std::string shape = npy::words(array.shape);
    if (options.json) {
      print_json({{"output", in_quotes(options.output)}, {"name", in_quotes(name)}, {"shape", in_quotes(shape)}, {"dtype", in_quotes(array.dtype)}});
    } else {
      std::printf("%s: '%s', %s of %s\n", options.output.c_str(), name.c_str(), shape.c_str(), array.dtype.c_str());
    }
  }
  return 0;
}

Options parsed(int count, char** words) {
  if (count < 2) throw std::invalid_argument(USAGE);
  Options options;
  options.folder = words[1];
  for (int i = 2; i < count; ++i) {
    const std::string word = words[i];
    auto value = [&] {
      if (++i >= count) throw std::invalid_argument(word + " needs a value\n" + USAGE);
      return std::string(words[i]);
    };
    auto numeric = [&](int least) {
      const std::string given = value();
      char* end = nullptr;
      const double number = std::strtod(given.c_str(), &end);
      if (given.empty() || *end || !(number >= least && number <= 1e6))
        throw std::invalid_argument(word + " takes a number from " + std::to_string(least) + ", not " + given + "\n");
      return number;
    };
    if (word == "--check" || word == "--bench") {
      if (!options.mode.empty()) throw std::invalid_argument("give one of --check, --bench and an input\n");
      options.mode = word;
    } else if (word == "-o") {
      options.output = value();
    } else if (word == "--cores") {
      options.cores = value();
    } else if (word == "--threads") {
      options.threads = static_cast<int>(numeric(1));
    } else if (word == "--seconds") {
      options.seconds = numeric(0);
    } else if (word == "--json") {
      options.json = true;
    } else if (word[0] != '-' && options.mode.empty()) {
      options.mode = "run", options.input = word;
    } else {
      throw std::invalid_argument(USAGE);
    }
  }
  if (options.mode.empty()) throw std::invalid_argument(USAGE);
  if ((options.mode == "run") == options.output.empty()) throw std::invalid_argument("-o OUTPUT goes with INPUT\n");
  return options;
}

int start(Options options) {
  const Description about(options.folder + "/network.txt");
  const std::set<std::string> flags = machine::flags();
  for (const std::string& flag : about.words("cpu_flags"))
    if (!flags.empty() && !flags.count(flag))
      throw std::runtime_error("the network is compiled for " + about.text("target") + ", and this machine's CPU lacks " + flag);

  const std::vector<int> allowed = machine::allowed();
  const std::vector<int> cores = options.cores.empty() ? machine::big(allowed) : listed(options.cores, allowed);
  const int most = static_cast<int>(cores.size());
  if (options.threads > most)
    throw std::runtime_error(std::to_string(options.threads) + " threads asked for, and cores " + machine::words(cores) + " to run them on");
  if (!options.threads) options.threads = std::min(most, static_cast<int>(about.number("threads", 1, 1u << 16)));
  if (!machine::bind(cores)) throw std::runtime_error("this system does not let a program choose its cores: " + machine::words(cores));
  // Read when TVM's threads are made: as many as may be used, none tied to a core by TVM. An idle one yields so many times before it sleeps, by
  // default 300,000 times, which the program waits for at its end; see tvm_sched/runtime.py for the number.
  setenv("TVM_NUM_THREADS", std::to_string(most).c_str(), 1);
  setenv("TVM_BIND_THREADS", "0", 1);
  setenv("TVM_THREAD_POOL_SPIN_COUNT", "1000", 0);  // the user's own stays

  Network network(options.folder + "/net.so", about, options.threads);
  if (options.mode == "--check") return check(network, options, about);
  return options.mode == "--bench" ? bench(network, options, about, cores) : run(network, options, about);
}

}  // namespace

int main(int count, char** words) {
  try {
    return start(parsed(count, words));
  } catch (const std::invalid_argument& usage) {
    std::fputs(usage.what(), stderr);
  } catch (const std::exception& error) {
    std::string told = error.what();  // names of a damaged file hold no commands to the terminal
    for (char& letter : told)
      if (std::iscntrl(static_cast<unsigned char>(letter))) letter = '?';
    std::fprintf(stderr, "run.sh: %.2000s\n", told.c_str());
  }
  return 2;
}
