package edgetransact.edge;

import edgetransact.edge.EdgeException.Code;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The weights of models on the phone. A model is used only if all of its files have the sha256 that it lists.
 *
 * <p>Thread-safe as long as no two threads prepare the same model at once.
 */
public final class WeightStore {
    private final Source assets;
    private final Path internal;
    private final Path external;

    /**
     * @param assets the files that travel in the app
     * @param internal where models are copied to, and where it is remembered what was verified: {@code
     *     getFilesDir()/models}
     * @param external where {@code edge-transact install} puts models: {@code getExternalFilesDir(null)/models}
     */
    public WeightStore(Source assets, Path internal, Path external) {
        this.assets = assets;
        this.internal = internal;
        this.external = external;
    }

    /**
     * Copies a model out of the app if need be, and compares it with its sha256 unless that was done before and no file
     * has changed since. A copy that was interrupted goes on where it was. Blocks; interrupting the thread ends it.
     *
     * @return the directory of the model, for {@link Session#load}
     * @throws EdgeException {@code WEIGHTS_MISSING}, {@code WEIGHTS_DAMAGED}, {@code STORAGE_FULL}, {@code
     *     STORAGE_FAILED}
     */
    public Path prepare(Model model, Progress progress) throws EdgeException, InterruptedException {
        boolean travels = model.weights() == Model.Weights.ASSETS;
        Path directory = (travels ? internal : external).resolve(model.id());
        // No model can have a name that begins with a dot.
        Path part = internal.resolve("." + model.id() + ".part");
        try {
            Files.createDirectories(internal);
            Verified verified = new Verified(internal.resolve("." + model.id() + ".verified"));
            if (!verified.holds(model, directory)) {
                long begun = System.currentTimeMillis();
                if (travels) {
                    takeBack(model, directory, part);
                    copy(model, part, progress);
                    Files.move(part, directory);
                } else {
                    verify(model, directory, progress);
                }
                // Others can write where models are installed, and may be doing so; a copy is the app's own.
                if (travels || Verified.settled(model, directory, begun)) {
                    verified.remember(model, directory);
                }
            }
            return directory;
        } catch (IOException error) {
            throw EdgeException.of(Code.STORAGE_FAILED, String.valueOf(error.getMessage()), error);
        }
    }

    /** Deletes copies of models that are no longer in the app, or are installed now, as after an update of it. */
    public void keepOnly(Models models) throws EdgeException {
        List<String> names = models.list().stream()
                .flatMap(model -> model.weights() == Model.Weights.ASSETS
                        ? Stream.of(model.id(), "." + model.id() + ".part", "." + model.id() + ".verified")
                        : Stream.of("." + model.id() + ".verified"))
                .collect(Collectors.toList());
        try {
            if (Files.isDirectory(internal)) {
                for (Path path : Directories.list(internal)) {
                    if (!names.contains(path.getFileName().toString())) {
                        Directories.delete(path);
                    }
                }
            }
        } catch (IOException error) {
            throw EdgeException.of(Code.STORAGE_FAILED, String.valueOf(error.getMessage()), error);
        }
    }

    /** A copy that isn't what it should be becomes the beginning of one: the files that it shares stay. */
    private static void takeBack(Model model, Path directory, Path part) throws IOException {
        if (Files.exists(directory)) {
            Directories.delete(part);
            Files.move(directory, part);
        }
        Files.createDirectories(part);
        for (Path path : Directories.list(part)) {
            String name = path.getFileName().toString();
            if (model.files().stream().noneMatch(file -> file.path().equals(name))) {
                Directories.delete(path);
            }
        }
    }

    private void copy(Model model, Path part, Progress progress)
            throws IOException, EdgeException, InterruptedException {
        long needed = 0;
        for (Model.File file : model.files()) {
            needed += file.bytes() - Math.min(size(part.resolve(file.path())), file.bytes());
        }
        requireSpace(needed);
        Tally tally = new Tally(progress, Stage.COPY, model.bytes());
        for (Model.File file : model.files()) {
            String asset = model.id() + "/" + file.path();
            Path to = part.resolve(file.path());
            boolean resumed = size(to) > 0;
            if (!copy(asset, file, to, tally)) {
                Files.delete(to);
                // What was there may have been another version's.
                if (!resumed || !copy(asset, file, to, bytes -> {})) {
                    throw EdgeException.of(Code.WEIGHTS_DAMAGED, file.path());
                }
            }
        }
    }

    /** Copies what a file still lacks; returns whether it then is what it should be. */
    private boolean copy(String asset, Model.File file, Path to, Sha256.Counter counter)
            throws IOException, EdgeException, InterruptedException {
        if (size(to) > file.bytes()) {
            Files.delete(to);
        }
        Sha256 sha256 = new Sha256(counter);
        long there = size(to);
        if (there > 0) {
            try (InputStream begun = Files.newInputStream(to)) {
                sha256.read(begun);
            }
        }
        try (InputStream from = open(asset)) {
            skip(from, there);
            try (FileOutputStream end = new FileOutputStream(to.toFile(), true)) {
                sha256.copy(from, end);
                // Before the copy is renamed and remembered, it has to survive a battery that is pulled.
                end.getFD().sync();
            }
        } catch (IOException error) {
            requireSpace(file.bytes() - size(to));
            throw error;
        }
        return sha256.hex().equals(file.sha256());
    }

    private static void verify(Model model, Path directory, Progress progress)
            throws IOException, EdgeException, InterruptedException {
        for (Model.File file : model.files()) {
            if (size(directory.resolve(file.path())) < file.bytes()) {
                throw EdgeException.of(Code.WEIGHTS_MISSING, file.path());
            }
        }
        Tally tally = new Tally(progress, Stage.VERIFY, model.bytes());
        for (Model.File file : model.files()) {
            Sha256 sha256 = new Sha256(tally);
            try (InputStream from = Files.newInputStream(directory.resolve(file.path()))) {
                sha256.read(from);
            }
            if (!sha256.hex().equals(file.sha256())) {
                throw EdgeException.of(Code.WEIGHTS_DAMAGED, file.path());
            }
        }
    }

    private InputStream open(String asset) throws IOException, EdgeException {
        try {
            return assets.open(asset);
        } catch (FileNotFoundException error) {
            throw EdgeException.of(Code.WEIGHTS_MISSING, asset, error);
        }
    }

    private void requireSpace(long bytes) throws EdgeException {
        long available = internal.toFile().getUsableSpace();
        if (bytes > available) {
            throw EdgeException.tooLittle(Code.STORAGE_FULL, bytes, available);
        }
    }

    private static void skip(InputStream from, long bytes) throws IOException {
        for (long left = bytes; left > 0; ) {
            long skipped = from.skip(left);
            if (skipped <= 0) {
                return; // it is shorter than what is there, and the sha256 tells
            }
            left -= skipped;
        }
    }

    /** The size of a file, 0 if it isn't there. */
    private static long size(Path path) throws IOException {
        return Files.exists(path) ? Files.size(path) : 0;
    }
}
