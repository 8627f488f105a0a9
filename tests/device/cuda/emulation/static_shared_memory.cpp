#include "static_shared_memory.hpp"

#include <elf.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace emulation {
namespace {

struct Variable {
    volatile unsigned char* address;
    std::size_t bytes;
};

// Where the program has been loaded, against the addresses in its file.
std::size_t load_address() {
    std::size_t address = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* result) {
            *static_cast<std::size_t*>(result) = info->dlpi_addr;
            return 1;  // the first is the program
        },
        &address);
    return address;
}

// Compilers have no section that the statics of templates and of other functions could share, but symbols tell what is
// static in the functions of mistral::cuda. Variables without a value are in sections without bits.
std::vector<Variable> find_variables() {
    std::ifstream file("/proc/self/exe", std::ios::binary);
    const std::string program(std::istreambuf_iterator<char>(file), {});
    const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(program.data());
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(program.data() + header->e_shoff);
    const std::size_t base = load_address();
    std::vector<Variable> variables;
    for (std::size_t i = 0; i < header->e_shnum; ++i) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(program.data() + sections[i].sh_offset);
        const char* names = program.data() + sections[sections[i].sh_link].sh_offset;
        for (std::size_t j = 0; j < sections[i].sh_size / sizeof(ElfW(Sym)); ++j) {
            const auto& symbol = symbols[j];
            constexpr char prefix[] = "_ZZN7mistral4cuda";
            if (std::strncmp(names + symbol.st_name, prefix, sizeof(prefix) - 1) != 0) continue;
            if ((symbol.st_info & 0xf) != STT_OBJECT || symbol.st_shndx >= header->e_shnum) continue;
            if (sections[symbol.st_shndx].sh_type != SHT_NOBITS) continue;
            variables.push_back({reinterpret_cast<volatile unsigned char*>(base + symbol.st_value), symbol.st_size});
        }
    }
    return variables;
}

}  // namespace

// AddressSanitizer's margins may count as parts of variables, and are no errors here.
__attribute__((no_sanitize("address"))) void poison_static_shared_memory() {
    static const std::vector<Variable> variables = find_variables();
    for (const auto& [address, bytes] : variables) {
        std::size_t i = 0;
        if (reinterpret_cast<std::uintptr_t>(address) % 8 == 0)  // as what is large is
            for (; i + 8 <= bytes; i += 8) *reinterpret_cast<volatile std::uint64_t*>(address + i) = ~std::uint64_t(0);
        for (; i < bytes; ++i) address[i] = 0xff;
    }
}

}  // namespace emulation
