// The shortest guest: writes 123 to the boot timer and pulls the reset line, by the first instructions after the entry.
// No runtime and no page tables of its own: what perf/ measures with it is the monitor. The bytes mean the same in
// 32-bit protected mode (PVH) and in long mode (Linux 64-bit protocol).

asm(".section .entry, \"ax\"\n"
    ".globl linux_entry, pvh_entry\n"
    "linux_entry:\n"
    "pvh_entry:\n"
    "  movl $0x3F0, %edx\n"
    "  movb $123, %al\n"
    "  outb %al, %dx\n"
    "  movb $0xFE, %al\n"
    "  outb %al, $0x64\n"
    "1:\n"
    "  jmp 1b\n");
