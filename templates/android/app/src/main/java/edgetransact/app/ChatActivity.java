package edgetransact.app;

import android.app.Activity;
import android.os.Bundle;
import android.os.Handler;
import android.os.Looper;
import android.view.View;
import android.widget.AdapterView;
import android.widget.ArrayAdapter;
import android.widget.Button;
import android.widget.EditText;
import android.widget.ImageButton;
import android.widget.ListView;
import android.widget.ProgressBar;
import android.widget.Spinner;
import android.widget.TextView;
import edgetransact.edge.Choice;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Model;
import edgetransact.edge.Stage;
import edgetransact.edge.android.AppFiles;
import edgetransact.edge.android.ModelHolder;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** The chat. What it shows is in {@link ModelHolder} and {@link Chat}, which outlive it. */
public final class ChatActivity extends Activity {
    private static final String MODEL = "model";
    private static final int TICK_MILLIS = 250;
    private static final int PERMILLE = 1000;

    private final Handler main = new Handler(Looper.getMainLooper());
    private final Runnable show = this::show;
    private final Runnable changed = this::changed;
    private ModelHolder holder;
    private Chat chat;
    private Words words;
    private List<Model> models = Collections.emptyList();
    private EdgeException broken;

    private Spinner choice;
    private TextView status;
    private TextView detail;
    private ProgressBar progress;
    private Button retry;
    private Button anyway;
    private Button gpu;
    private TextView empty;
    private EditText input;
    private ImageButton send;
    private ImageButton stop;
    private ImageButton restart;
    private MessageAdapter messages;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.chat);
        Bars.avoid(findViewById(R.id.root));
        holder = ModelHolder.of(this);
        chat = Chat.of(this);
        words = new Words(this);
        try {
            models = new AppFiles(this).models().list();
        } catch (EdgeException error) {
            broken = error;
        }
        findViews();
        fillChoice();
    }

    @Override
    protected void onStart() {
        super.onStart();
        chat.observe(changed);
        if (holder.model() == null && !models.isEmpty()) {
            holder.load(lastChosen());
        }
        show();
    }

    @Override
    protected void onStop() {
        super.onStop();
        chat.forget(changed);
        main.removeCallbacks(show);
        empty.removeCallbacks(show);
    }

    private void findViews() {
        choice = findViewById(R.id.choice);
        status = findViewById(R.id.status);
        detail = findViewById(R.id.detail);
        progress = findViewById(R.id.progress);
        retry = findViewById(R.id.retry);
        anyway = findViewById(R.id.anyway);
        gpu = findViewById(R.id.gpu);
        empty = findViewById(R.id.empty);
        input = findViewById(R.id.input);
        send = findViewById(R.id.send);
        stop = findViewById(R.id.stop);
        restart = findViewById(R.id.restart);
        messages = new MessageAdapter(chat, holder, words);
        ListView list = findViewById(R.id.messages);
        list.setAdapter(messages);
        list.setEmptyView(empty);
        send.setOnClickListener(view -> send());
        stop.setOnClickListener(view -> chat.stop());
        restart.setOnClickListener(view -> chat.restart());
        retry.setOnClickListener(view -> holder.load(holder.model()));
        anyway.setOnClickListener(view -> holder.loadAnyway());
        gpu.setOnClickListener(view -> holder.retryGpu());
    }

    private void fillChoice() {
        List<String> names = new ArrayList<>();
        for (Model model : models) {
            names.add(model.name());
        }
        ArrayAdapter<String> adapter = new ArrayAdapter<>(this, android.R.layout.simple_spinner_item, names);
        adapter.setDropDownViewResource(android.R.layout.simple_spinner_dropdown_item);
        choice.setAdapter(adapter);
        choice.setSelection(Math.max(0, indexOf(holder.model() == null ? lastChosen() : holder.model())));
        choice.setOnItemSelectedListener(new AdapterView.OnItemSelectedListener() {
            @Override
            public void onItemSelected(AdapterView<?> parent, View view, int position, long id) {
                choose(models.get(position));
            }

            @Override
            public void onNothingSelected(AdapterView<?> parent) {}
        });
    }

    /** By id: each activity reads the models again. */
    private int indexOf(Model wanted) {
        for (int index = 0; wanted != null && index < models.size(); index++) {
            if (models.get(index).id().equals(wanted.id())) {
                return index;
            }
        }
        return -1;
    }

    private Model lastChosen() {
        String id = getPreferences(MODE_PRIVATE).getString(MODEL, "");
        for (Model model : models) {
            if (model.id().equals(id)) {
                return model;
            }
        }
        return models.isEmpty() ? null : models.get(0);
    }

    private void choose(Model model) {
        getPreferences(MODE_PRIVATE).edit().putString(MODEL, model.id()).apply();
        if (holder.model() == null || !model.id().equals(holder.model().id())) {
            holder.load(model);
        }
    }

    private void send() {
        String text = input.getText().toString().trim();
        if (!text.isEmpty() && holder.session() != null && !chat.answering()) {
            input.setText("");
            chat.send(text);
        }
    }

    /** Shows what changed in the next frame: tokens may come faster than those. */
    private void changed() {
        empty.removeCallbacks(show);
        empty.postOnAnimation(show);
    }

    private void show() {
        ModelHolder.Step step = holder.step();
        EdgeException error = broken == null ? holder.error() : broken;
        boolean loaded = holder.session() != null;
        boolean loading = !loaded && error == null && step != null;
        setText(status, statusText(error, step));
        // Android may freeze an app whose screen went dark, and the first start takes long.
        progress.setKeepScreenOn(loading);
        progress.setVisibility(loading ? View.VISIBLE : View.GONE);
        detail.setVisibility(loading ? View.VISIBLE : View.GONE);
        if (loading) {
            detail.setText(words.detail(step));
            progress.setIndeterminate(step.stage() == Stage.LOAD || step.stage() == Stage.KERNELS);
            progress.setMax(PERMILLE);
            progress.setProgress((int) (PERMILLE * step.done() / Math.max(1, step.total())));
        }
        retry.setVisibility(error != null && holder.model() != null ? View.VISIBLE : View.GONE);
        EdgeException.Code code = error == null ? null : error.code();
        boolean small = code == EdgeException.Code.TOO_LITTLE_MEMORY || code == EdgeException.Code.LACKED_MEMORY;
        anyway.setVisibility(small ? View.VISIBLE : View.GONE);
        boolean gaveWay = loaded && holder.session().choice().reason() == Choice.Reason.GPU_FAILED;
        gpu.setVisibility(gaveWay || code == EdgeException.Code.GPU_FAILED ? View.VISIBLE : View.GONE);
        empty.setText(loaded ? R.string.empty_ready : R.string.empty_not_ready);
        send.setVisibility(chat.answering() ? View.GONE : View.VISIBLE);
        send.setEnabled(loaded);
        stop.setVisibility(chat.answering() ? View.VISIBLE : View.GONE);
        restart.setEnabled(!chat.bubbles().isEmpty());
        messages.notifyDataSetChanged();
        // How far loading is changes without a call.
        main.removeCallbacks(show);
        if (!loaded && error == null) {
            main.postDelayed(show, TICK_MILLIS);
        }
    }

    private String statusText(EdgeException error, ModelHolder.Step step) {
        if (error != null) {
            return words.of(error, holder.model());
        }
        if (holder.session() != null) {
            return words.of(holder.session());
        }
        return step == null ? "" : words.of(step.stage());
    }

    /** Only a change is set, so that screen readers don't repeat it. */
    private static void setText(TextView view, String text) {
        if (!text.contentEquals(view.getText())) {
            view.setText(text);
        }
    }
}
