/* The guests' level-0 code: three ways in, the gates, and nothing else.
 *
 * On some hosts (kvm_pvm) KVM emulates level 0 instruction by instruction and knows few of them, so this file does as
 * little as it can: every table below is laid out by the assembler and the linker, and all work is done at level 3.
 * Nothing but moves, adds, jumps and the system instructions that no guest can do without.
 *
 * Seen on kvm_pvm: IRETQ and SYSRETQ work, and keep the interrupt flag, but IOPL is lost on the way to level 3, so
 * ports are granted by the TSS's permission map, and CLI/STI are for level 0 alone. INT n fails at level 3 for every
 * vector but 3 and 4, whose gates the host itself opens to programs; hence the level-0 gate is vector 3. */

    .set kMaximumCpus, 32               /* as in cpus.h */
    .set kGateStackSize, 4096           /* level-0 stack of one CPU */
    .set kStackSize, 16384              /* level-3 stack of one CPU */
    .set kTaskSize, 128                 /* a 64-bit TSS (104 bytes), rounded up */

    .set kPortMap, kMaximumCpus * kTaskSize     /* offset of the port permissions from the first TSS */
    .set kPortMapSize, 8192

    .set kLevel0Code, 0x08
    .set kFlatCode32, 0x10
    .set kFlatData, 0x18
    .set kLevel3Data, 0x20 | 3
    .set kLevel3Code, 0x28 | 3
    .set kFirstTask, 0x30

    .set kLevel3Flags, 0x3002           /* IOPL 3, interrupts off, the bit that is always one */
    .set kInterruptFlag, 0x200
    .set kCr0, 0x80000033               /* paging, numeric errors, extension type, monitor coprocessor, protection */
    .set kCr4, 0x620                    /* PAE, and SSE for level 3 */
    .set kEfer, 0xC0000080
    .set kEferLongMode, 0x100
    .set kEndOfInterrupt, 0xFEE000B0    /* local APIC, EOI register */

/* ---- Ways in -------------------------------------------------------------------------------------------------- */

    .section .entry, "ax"

/* PVH: 32-bit protected mode without paging, flat segments; EBX points to hvm_start_info. */
    .code32
    .globl pvh_entry
pvh_entry:
    movl %ebx, boot_argument
    movl $1, boot_protocol
enter_long_mode:
    lgdt gdt_pointer
    movl $kCr4, %eax
    movl %eax, %cr4
    movl $page_map, %eax
    movl %eax, %cr3
    movl $kEfer, %ecx
    rdmsr
    orl $kEferLongMode, %eax
    wrmsr
    movl $kCr0, %eax
    movl %eax, %cr0
    ljmp $kLevel0Code, $leave_level_0

/* Linux 64-bit boot protocol: long mode, identity map, RSI points to the zero page. */
    .code64
    .globl linux_entry
linux_entry:
    movq %rsi, boot_argument
    movl $2, boot_protocol
    lgdt gdt_pointer
    movl $kCr4, %eax
    movq %rax, %cr4
    movl $page_map, %eax
    movq %rax, %cr3
    movl $kCr0, %eax
    movq %rax, %cr0

/* Every CPU, in long mode: takes a number, its own task and stacks, and goes to level 3. */
leave_level_0:
    movl $1, %edi
    lock xaddl %edi, cpus_entered
    lidt idt_pointer
    movl %edi, %eax
    shll $4, %eax
    addl $kFirstTask, %eax
    ltr %ax
    movl $kLevel3Data, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %edi, %eax
    shll $7, %eax                       /* times kTaskSize */
    movq tasks + 4(%rax), %rsp          /* RSP0 of this CPU */
    leal 1(%rdi), %ecx
    shll $14, %ecx                      /* times kStackSize */
    addl $stacks - 8, %ecx              /* as after a call: the ABI's alignment */
    pushq $kLevel3Data
    pushq %rcx
    pushq $kLevel3Flags
    pushq $kLevel3Code
    pushq $enter_level_3
    iretq

/* Start-up message: real mode. Copied to a page below 1 MiB; CS is that page, so addresses are relative to it. */
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    lgdtl %cs:(trampoline_gdt_pointer - trampoline)
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl $kFlatCode32, $trampoline_32
trampoline_gdt_pointer:
    .short gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .code32
trampoline_32:
    movl $kFlatData, %eax
    movl %eax, %ds
    movl %eax, %ss
    jmp enter_long_mode

/* ---- Gates ---------------------------------------------------------------------------------------------------- */

    .code64

/* Vector 3, which level 3 may raise: runs the function in RAX at level 0, on this CPU's gate stack, and says in R11 that
 * it has. */
level_0_gate:
    callq *%rax
    xorl %r11d, %r11d
    iretq

/* Counted and acknowledged: the way back of the stubs below. */
acknowledge:
    pushq %rax
    movl $kEndOfInterrupt, %eax
    movl $0, (%rax)
    popq %rax
    iretq

/* Counted and held: no further interrupt for whoever was interrupted. */
hold:
    andl $~kInterruptFlag, 16(%rsp)
    iretq

/* An exception, number and error code on the stack: remembered once, then told at level 3. */
exception:
    popq %rax
    popq %rcx
    movl $1, %edx
    xchgl %edx, exception_seen
    testl %edx, %edx
    jnz exception_again
    movq %rax, exception_vector
    movq %rcx, exception_error
    popq %rax
    movq %rax, exception_rip
    popq %rax
    movq %rax, exception_cs
    popq %rax
    movq %rax, exception_flags
    popq %rax
    movq %rax, exception_rsp
    movq %cr2, %rax
    movq %rax, exception_address
    pushq $kLevel3Data
    pushq $report_stack_end - 8
    pushq $kLevel3Flags
    pushq $kLevel3Code
    pushq $report_exception
    iretq
/* The report failed too, or two CPUs failed together: what is left is to end the machine. */
exception_again:
    movl $0xFE, %eax
    outb %al, $0x64
1:  hlt
    jmp 1b

/* One entry of 16 bytes a vector, so that the IDT can be laid out by the linker. Vectors 8, 10-14, 17, 21, 29 and 30
 * push an error code themselves. */
    .balign 4096
    .globl interrupt_stubs
interrupt_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector == 3
    jmp level_0_gate
    .elseif vector < 32
    .if ((0x60227D00 >> vector) & 1) == 0
    pushq $0
    .endif
    pushq $vector
    jmp exception
    .else
    lock incq interrupt_counts + 8 * vector
    jmp acknowledge
    .endif
    .set vector, vector + 1
    .endr

/* The same for vectors that level 3 acknowledges: it goes on with interrupts off. */
    .balign 4096
    .globl holding_stubs
holding_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    lock incq interrupt_counts + 8 * vector
    jmp hold
    .set vector, vector + 1
    .endr
    .balign 16

/* ---- Level-0 functions (level_0.h) ------------------------------------------------------------------------------ */

/* The flags that the gate will give back lie above our return address, and above those of level 3 and its segment. */
    .globl interrupts_on_at_level_0
interrupts_on_at_level_0:
    orl $kInterruptFlag, 24(%rsp)
    retq
    .globl interrupts_off_at_level_0
interrupts_off_at_level_0:
    andl $~kInterruptFlag, 24(%rsp)
    retq

/* Waits until the counter at RDI is at least RSI. The look and the halt are one step: STI lets interrupts in only
 * after the instruction that follows it. An interrupt that is held ends the wait for level 3 too. */
    .globl halt_until_at_level_0
halt_until_at_level_0:
    cmpq %rsi, (%rdi)
    jae 1f
    sti
    hlt
    pushfq
    cli
    popq %rax
    testl $kInterruptFlag, %eax
    jnz halt_until_at_level_0
    andl $~kInterruptFlag, 24(%rsp)
1:  retq

/* Shuts the CPU down: an exception without a gate, nor one for the exception that causes. */
    .globl triple_fault_at_level_0
triple_fault_at_level_0:
    lidt no_idt_pointer
    ud2
no_idt_pointer:
    .short 0
    .quad 0

/* ---- Tables --------------------------------------------------------------------------------------------------- */

    .data

/* Identity map of the first 4 GiB in 2 MiB pages, open to level 3, and uncached from the MMIO hole (0xD0000000) up.
 * Accessed and dirty bits are set, so that nobody has to write them. */
    .balign 4096
    .globl page_map
page_map:
    .quad page_directories_pointer + 0x27
    .fill 511, 8, 0
    .globl page_directories_pointer
page_directories_pointer:
    .set n, 0
    .rept 4
    .quad page_directories + n * 4096 + 0x27
    .set n, n + 1
    .endr
    .fill 508, 8, 0
page_directories:
    .set n, 0
    .rept 0xD0000000 >> 21
    .quad (n << 21) + 0xE7
    .set n, n + 1
    .endr
    .rept 0x30000000 >> 21
    .quad (n << 21) + 0xFF
    .set n, n + 1
    .endr

    .balign 16
gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF            /* kLevel0Code: 64-bit */
    .quad 0x00CF9B000000FFFF            /* kFlatCode32 */
    .quad 0x00CF93000000FFFF            /* kFlatData */
    .quad 0x00CFF3000000FFFF            /* kLevel3Data */
    .quad 0x00AFFB000000FFFF            /* kLevel3Code: 64-bit */
    .set n, 0
    .rept kMaximumCpus                  /* kFirstTask: available 64-bit TSS; the linker script cuts the address */
    .short kPortMap + kPortMapSize - n * kTaskSize
    .short tasks_low + n * kTaskSize
    .byte tasks_middle
    .byte 0x89, 0
    .byte tasks_high
    .quad 0
    .set n, n + 1
    .endr
gdt_end:
gdt_pointer:
    .short gdt_end - gdt - 1
    .quad gdt

    .balign 16
    .globl idt
idt:
    .set vector, 0
    .rept 256
    .short interrupt_stubs_low + vector * 16
    .short kLevel0Code
    .byte 0
    .if vector == 3
    .byte 0xEE                          /* interrupt gate, open to level 3 */
    .else
    .byte 0x8E                          /* interrupt gate */
    .endif
    .short interrupt_stubs_middle
    .quad 0
    .set vector, vector + 1
    .endr
idt_pointer:
    .short 256 * 16 - 1
    .quad idt

/* On a page of its own: kMaximumCpus times kTaskSize is one page, and no address of it carries out of 16 bits. */
    .balign 4096
    .globl tasks
tasks:
    .set n, 0
    .rept kMaximumCpus
    .long 0
    .quad gate_stacks + (n + 1) * kGateStackSize
    .fill 90, 1, 0
    .short kPortMap - n * kTaskSize
    .fill kTaskSize - 104, 1, 0
    .set n, n + 1
    .endr
    .fill kPortMapSize, 1, 0            /* kPortMap: no bit is set, level 3 may use every port */
    .byte 0xFF

    .bss
    .balign 16
gate_stacks:
    .skip kMaximumCpus * kGateStackSize
stacks:
    .skip kMaximumCpus * kStackSize
    .skip 4096
report_stack_end:

    .globl interrupt_counts
interrupt_counts:
    .skip 256 * 8
    .globl boot_argument, boot_protocol, cpus_entered
boot_argument:
    .skip 8
boot_protocol:
    .skip 4
cpus_entered:
    .skip 4
    .globl exception_vector, exception_error, exception_rip, exception_cs, exception_rsp, exception_address
exception_vector:
    .skip 8
exception_error:
    .skip 8
exception_rip:
    .skip 8
exception_cs:
    .skip 8
exception_rsp:
    .skip 8
exception_address:
    .skip 8
exception_flags:
    .skip 8
exception_seen:
    .skip 4

    .section .note.GNU-stack, "", @progbits
