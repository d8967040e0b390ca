package edgetransact.edge;

import java.util.function.BooleanSupplier;

/** What the phone can do, as far as the choice of a library depends on it. Immutable. */
public final class Phone {
    private final BooleanSupplier openCl;
    private final long availableMemoryBytes;
    private final String chip;

    /**
     * @param openCl tries whether the OpenCL library can be loaded; a driver may end the app then
     * @param availableMemoryBytes memory that the app can still take without others being ended for it
     * @param chip {@code Build.SOC_MODEL}, or any other text where Android doesn't tell it
     */
    public Phone(BooleanSupplier openCl, long availableMemoryBytes, String chip) {
        this.openCl = openCl;
        this.availableMemoryBytes = availableMemoryBytes;
        this.chip = chip;
    }

    /** Whether the OpenCL library can be loaded, which is tried now. */
    public boolean openCl() {
        return openCl.getAsBoolean();
    }

    /** Memory that the app can still take, in bytes. */
    public long availableMemoryBytes() {
        return availableMemoryBytes;
    }

    /**
     * The same phone, on which no model is too large: for users who were warned. Android ends apps in the background
     * for one in front, so a model that doesn't fit now may fit all the same.
     */
    public Phone ignoringMemory() {
        return new Phone(openCl, Long.MAX_VALUE, chip);
    }

    /** Whether it is {@link #ignoringMemory}. */
    boolean ignoresMemory() {
        return availableMemoryBytes == Long.MAX_VALUE;
    }

    /** The model of its chip. */
    public String chip() {
        return chip;
    }
}
